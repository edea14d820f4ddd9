"""The columns of the page's table, of its csv, and of each crystal's history."""

import dataclasses
from collections.abc import Callable, Sequence

from crystal_diffusion_jax.report.crystals import Crystal
from crystal_diffusion_jax.report.states import State

Value = float | str | bool | None

VALID = (
    "no two atoms closer than 0.5 Å, and a composition whose common charges can add up to zero "
    "(SMACT) or that is all metal: the usual, lenient test, which says nothing about stability. "
    "Look at the closest pair, the volume and the energies too"
)
IN_TRAINING = (
    "whether a training crystal is the same (pymatgen's StructureMatcher). “no” means not in the "
    "training set, which is not the same as unknown: look it up in ICSD, the Materials Project or "
    "the literature"
)


@dataclasses.dataclass(frozen=True)
class TableColumn:
    """One column.

    Attributes:
      key: its name in the csv.
      title: its heading.
      about: what it is, "" where the heading says all.
      decimals: of numbers in the table; None for text and yes or no.
      shown: in the table; otherwise in the csv and in each crystal's history only.
      values: one per crystal; None or "" where unknown.
    """

    key: str
    title: str
    about: str
    decimals: int | None
    shown: bool
    values: list[Value]


@dataclasses.dataclass(frozen=True)
class History:
    """A line of a crystal's history: what it was as generated, and what it is once relaxed.

    Attributes:
      title: what it is.
      generated: keys of the columns.
      relaxed: keys of the columns.
    """

    title: str
    generated: Sequence[str]
    relaxed: Sequence[str]


_LENGTHS, _ANGLES = ["a", "b", "c"], ["alpha", "beta", "gamma"]
# Key, title, decimals, value of a state, whether the table shows it of the generated crystal.
_STATES: Sequence[tuple[str, str, int | None, Callable[[State], Value], bool]] = (
    ("closest_pair", "closest pair, Å", 2, lambda x: x.closest, True),
    ("closest_pair_in_radii", "closest pair, radii", 2, lambda x: x.closest_in_radii, True),
    ("volume_per_atom", "volume, Å³/atom", 1, lambda x: x.volume_per_atom, True),
    ("space_group", "space group", None, lambda x: x.space_group, True),
    ("energy_per_atom", "energy, eV/atom", 3, lambda x: x.energy, False),
    ("density", "density, g/cm³", 2, lambda x: x.density, False),
    ("a", "a, Å", 3, lambda x: x.cell[0], False),
    ("b", "b, Å", 3, lambda x: x.cell[1], False),
    ("c", "c, Å", 3, lambda x: x.cell[2], False),
    ("alpha", "alpha, °", 1, lambda x: x.cell[3], False),
    ("beta", "beta, °", 1, lambda x: x.cell[4], False),
    ("gamma", "gamma, °", 1, lambda x: x.cell[5], False),
)
_ABOUT = {
    "closest_pair": "shortest distance between two atoms, periodic images included",
    "closest_pair_in_radii": "the same in units of the sum of both covalent radii: about 1 for "
    "a bond; below 0.65 no crystal of the shipped models' data sets has any",
    "volume_per_atom": "of the generated cell",
    "space_group": "of the generated crystal, within the tolerance of symmetry",
}


def columns(
    crystals: Sequence[Crystal], flags: Sequence[Sequence[str]], title: str, property_name: str
) -> tuple[list[TableColumn], list[History]]:
    """All columns of which at least one crystal has a value, and the lines of a history.

    Args:
      crystals: of the page.
      flags: of each.
      title: name and unit of the property that is predicted.
      property_name: its name.
    """
    found: list[TableColumn] = []

    def add(
        key: str,
        title: str,
        decimals: int | None,
        get: Callable[[Crystal], Value],
        about: str = "",
        shown: bool = True,
    ) -> None:
        values = [get(crystal) for crystal in crystals]
        if any(value is not None and value != "" for value in values):
            found.append(TableColumn(key, title, about, decimals, shown, values))

    def relaxed(name: str) -> Callable[[Crystal], Value]:
        return lambda crystal: getattr(crystal.relaxed, name, None)

    def state(get: Callable[[State], Value]) -> Callable[[Crystal], Value]:
        return lambda x: get(x.relaxed.state) if x.relaxed and x.relaxed.state else None

    predicted = f"predicted_{property_name}"
    text = {id(crystal): "; ".join(raised) for crystal, raised in zip(crystals, flags, strict=True)}
    add("name", "name", None, lambda x: x.name, shown=False)
    add("formula", "formula", None, lambda x: x.formula)
    add("index", "no.", 0, lambda x: x.index, "place among the crystals that were asked for")
    add("rank", "rank", 0, lambda x: x.rank, "place on the shortlist")
    add("failed_check", "failed check", None, lambda x: x.failed_check,
        "the first stage of the funnel that the crystal did not reach")  # fmt: skip
    found.append(TableColumn(
        "flags", "flags", "signs that the crystal is not to be believed, explained below the table",
        None, True, [text[id(crystal)] for crystal in crystals],
    ))  # fmt: skip
    add(predicted, f"predicted {title}", 3, lambda x: x.generated.value,
        "of the generated crystal, by a published network; not a calculation")  # fmt: skip
    numeric = all(isinstance(crystal.asked, float) for crystal in crystals)
    add("asked", "asked", 3 if numeric else None, lambda x: x.asked)
    add("difference", "|predicted - asked|", 3, lambda x: x.difference,
        "0 inside a requested range, and below the lowest training value if that was "
        "asked for")  # fmt: skip
    add("energy_above_hull", "above hull, eV/atom", 3, relaxed("energy_above_hull"),
        "energy of the relaxed crystal above the best mixture of known phases; far below 0 the "
        "known phases lack the compounds to compare with")  # fmt: skip
    add("compounds_only", "among compounds", None,
        lambda x: x.relaxed.compounds_only if x.relaxed and x.relaxed.decomposition else None,
        "whether the phases to compare with are all compounds; “no” means that some are elements, "
        "for lack of known compounds")  # fmt: skip
    add("energy_gain", "gained, eV/atom", 3, relaxed("energy_gain"),
        "energy that relaxing released; 0 in equilibrium")  # fmt: skip
    add("displacement", "moved, Å", 3, relaxed("rmsd"),
        "root mean square displacement of the atoms by relaxing; none where the structure "
        "became another one")  # fmt: skip
    add("kept_structure", "kept structure", None,
        lambda x: x.relaxed.rmsd is not None if x.relaxed and x.relaxed.state else None,
        "whether the relaxed crystal still matches the generated one")  # fmt: skip
    add("volume_change", "volume change, %", 1,
        lambda x: round(100 * x.relaxed.volume_change, 2)
        if x.relaxed and x.relaxed.volume_change is not None else None)  # fmt: skip
    add("valid", "valid", None, lambda x: x.valid, VALID)
    for key, heading, decimals, get, shown in _STATES:
        add(key, heading, decimals, lambda x, get=get: get(x.generated),  # type: ignore[misc]
            _ABOUT.get(key, ""), shown)  # fmt: skip
    add("in_training_set", "in training set", None, lambda x: x.in_training, IN_TRAINING)
    add("atoms", "atoms", 0, lambda x: len(x.generated.symbols), "in the cell")
    add("nearest_training_crystal", "nearest training crystal", None, lambda x: x.nearest,
        "in composition, then in volume per atom: formula, property, name")  # fmt: skip
    add("reason", "reason", None, lambda x: x.failure, shown=False)
    add(f"relaxed_{predicted}", f"predicted {title}, relaxed", 3, state(lambda x: x.value),
        shown=False)  # fmt: skip
    for key, heading, decimals, get, _ in _STATES:
        add(f"relaxed_{key}", f"{heading}, relaxed", decimals, state(get), shown=False)
    add("formation_energy", "formation energy, eV/atom", 3, relaxed("formation_energy"),
        shown=False)  # fmt: skip
    add("decomposes_into", "decomposes into", None, relaxed("decomposition"), shown=False)
    add("converged", "converged", None, relaxed("converged"), shown=False)
    add("steps", "steps of relaxing", 0, relaxed("steps"), shown=False)
    add("not_relaxed", "not relaxed", None, relaxed("failure"), shown=False)
    headings = {f"predicted {title}": [predicted]} | {
        heading: [key] for key, heading, *_ in _STATES if key not in _LENGTHS + _ANGLES
    }
    headings |= {"a, b, c, Å": _LENGTHS, "alpha, beta, gamma, °": _ANGLES}
    known = {column.key for column in found}
    return found, [
        History(heading, keys, [f"relaxed_{key}" for key in keys])
        for heading, keys in headings.items()
        if known.intersection(keys)
    ]
