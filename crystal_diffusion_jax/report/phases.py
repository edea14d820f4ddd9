"""Phase diagrams of chemical systems, drawn by pymatgen, with the relaxed crystals on them."""

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot
from pymatgen.analysis.phase_diagram import (
    PDEntry,
    PDPlotter,
    PhaseDiagram,
    triangular_coord,
)
from pymatgen.core import Composition, Element

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.potentials import references
from crystal_diffusion_jax.potentials.hull import from_crystals
from crystal_diffusion_jax.potentials.relaxation import RelaxedCrystal
from crystal_diffusion_jax.report.pictures import GENERATED_COLOUR, to_svg
from crystal_diffusion_jax.structures.compositions import reduced_formula

# Formation energies from the elements, which a phase diagram needs, come with this data set alone.
DATASET = "mp20"
LABEL = KNOWN_DATASETS[DATASET].property_name
# eV/atom; what rounding of the stored energies, and of a solver, may leave.
_SAME = 1e-3
# A picture of four elements is three-dimensional, and says little on a page.
_MOST_ELEMENTS = 3
# eV/atom; known phases further above their hull are left out.
_UNSTABLE = 0.1
_KNOWN_COLOUR = "#1f2933"


@dataclasses.dataclass(frozen=True)
class PhaseDiagramPicture:
    """The phase diagram of a chemical system.

    Attributes:
      system: its elements, e.g. "Ba-O-Ti".
      svg: the picture.
      description: the same in words.
    """

    system: str
    svg: str
    description: str


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A relaxed crystal of a phase diagram.

    Attributes:
      atomic_numbers: of its atoms.
      formation_energy: eV/atom.
      energy_above_hull: eV/atom.
    """

    atomic_numbers: tuple[int, ...]
    formation_energy: float
    energy_above_hull: float

    @property
    def elements(self) -> tuple[str, ...]:
        """Symbols, sorted."""
        return tuple(sorted({Element.from_Z(number).symbol for number in self.atomic_numbers}))


def candidates(outcomes: Iterable[RelaxedCrystal | None]) -> list[Candidate]:
    """The relaxed crystals of two or three elements whose energies above a hull are known.

    Only those whose formation energies are from MP-20's references, so that they fit to its labels.
    """
    fitted = references.load(DATASET)
    found = []
    for outcome in outcomes:
        if outcome is None or outcome.relaxation.structure is None:
            continue
        numbers = tuple(outcome.relaxation.structure.atomic_numbers)
        energy = fitted.formation_energy(numbers, outcome.relaxation.energy_per_atom)
        same = abs(energy - outcome.formation_energy_per_atom) < _SAME
        if (
            same
            and math.isfinite(outcome.energy_above_hull)
            and 1 < len(set(numbers)) <= _MOST_ELEMENTS
        ):
            found.append(Candidate(numbers, energy, outcome.energy_above_hull))
    return found


def phase_diagrams(
    found: Sequence[Candidate], train: CrystalDataset, most: int = 20
) -> list[PhaseDiagramPicture]:
    """A picture of each chemical system, those with the lowest crystal above the hull first.

    Args:
      found: the crystals, see `candidates`.
      train: MP-20's training split, labels included; its hull is drawn.
      most: pictures to draw.

    Returns:
      No picture of a system whose crystals were compared with another hull than this one.
    """
    labels = train.properties[:, train.property_names.index(LABEL)]
    energies = references.load(DATASET).of_labels(labels, train.num_atoms)
    systems: Mapping[tuple[str, ...], list[Candidate]] = defaultdict(list)
    for candidate in found:
        systems[candidate.elements].append(candidate)
    lowest = {
        system: min(x.energy_above_hull for x in members) for system, members in systems.items()
    }
    drawn: list[PhaseDiagramPicture] = []
    for system in sorted(systems, key=lambda system: (lowest[system], system)):
        members = systems[system]
        phases = _phases(train, energies, system)
        hull = from_crystals([numbers for numbers, _ in phases], [energy for _, energy in phases])
        above = [hull.above(x.atomic_numbers, x.formation_energy) for x in members]
        if all(
            one is not None and abs(one.energy - x.energy_above_hull) < _SAME
            for one, x in zip(above, members, strict=True)
        ):
            drawn.append(_picture(system, members, phases))
        if len(drawn) == most:
            break
    return drawn


def _phases(
    train: CrystalDataset, energies: np.ndarray, system: Sequence[str]
) -> list[tuple[list[int], float]]:
    """Atomic numbers and formation energy in eV/atom of the known phases within a system.

    Of each formula the lowest one.
    """
    allowed = np.isin(train.atomic_numbers, [Element(symbol).Z for symbol in system])
    inside = np.logical_and.reduceat(allowed, train.offsets[:-1])
    rows = np.flatnonzero(inside)
    if not len(rows):  # which np.split would take for one crystal without atoms
        return []
    chosen = train.take(rows)
    numbers = np.split(chosen.atomic_numbers, chosen.offsets[1:-1])
    lowest: dict[str, tuple[list[int], float]] = {}
    for each, energy in zip(numbers, energies[rows].tolist(), strict=True):
        formula = reduced_formula(each)
        if formula not in lowest or energy < lowest[formula][1]:
            lowest[formula] = each.tolist(), energy
    return list(lowest.values())


def _entry(numbers: Iterable[int], energy_per_atom: float) -> PDEntry:
    composition = Composition(Counter(map(Element.from_Z, numbers)))
    return PDEntry(composition, energy_per_atom * composition.num_atoms)


def _picture(
    system: Sequence[str], members: Sequence[Candidate], phases: Sequence[tuple[list[int], float]]
) -> PhaseDiagramPicture:
    known = [_entry([Element(symbol).Z], 0.0) for symbol in system]
    known += [_entry(numbers, energy) for numbers, energy in phases]
    diagram = PhaseDiagram(known)
    figure, axes = pyplot.subplots()
    try:
        style: dict[str, Any] = {"markerfacecolor": _KNOWN_COLOUR, "markersize": 6, "linewidth": 1}
        plotter = PDPlotter(diagram, show_unstable=_UNSTABLE, backend="matplotlib", **style)
        plotter.get_plot(label_unstable=False, ax=axes)
        _restyle(figure, axes)
        best: dict[str, Candidate] = {}
        for one in sorted(members, key=lambda x: x.energy_above_hull):
            best.setdefault(reduced_formula(one.atomic_numbers), one)
            axes.plot(*_place(diagram, one), "D", color=GENERATED_COLOUR, markersize=8, zorder=5)
        if len(system) == 3:
            axes.set_aspect("equal", adjustable="box")
        else:  # pymatgen shows the hull alone
            shown = [*axes.get_ylim(), *(_place(diagram, x)[1] for x in members)]
            # Room for the names below the diamonds.
            axes.set_ylim(min(shown) - 0.1 * (max(shown) - min(shown)), max(shown))
        for formula, one in best.items():
            axes.annotate(
                f"{formula}, {one.energy_above_hull:+.3f}".replace("-", "\u2212"),
                _place(diagram, one),
                xytext=(0, -16),
                textcoords="offset points",
                ha="center",
                color=GENERATED_COLOUR,
                fontsize=10,
                zorder=6,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
            )
        svg = to_svg(figure)
    finally:
        pyplot.close(figure)
    stable = sorted(
        entry.composition.reduced_formula
        for entry in diagram.stable_entries
        if len(entry.composition) > 1
    )
    listed = "; ".join(f"{name}, {one.energy_above_hull:.3f} eV/atom" for name, one in best.items())
    return PhaseDiagramPicture(
        system="-".join(system),
        svg=svg,
        description=f"Phase diagram of {'-'.join(system)}. On the hull, besides the elements: "
        f"{', '.join(stable) or 'nothing'}. Candidates above the hull: {listed}.",
    )


def _place(diagram: PhaseDiagram, one: Candidate) -> tuple[float, float]:
    """Where a crystal is on the picture, in the coordinates of PDPlotter."""
    entry = _entry(one.atomic_numbers, one.formation_energy)
    coords = diagram.pd_coords(entry.composition)
    if len(diagram.elements) == 2:
        return float(coords[0]), float(diagram.get_form_energy_per_atom(entry))
    x, y = triangular_coord(coords)
    return float(x), float(y)


def _restyle(figure: Any, axes: Any) -> None:
    """Makes pymatgen's picture, which is for slides, one for a page."""
    figure.set_size_inches(6.4, 4.8)
    for text in axes.texts:
        text.set(fontsize=10, fontweight="normal", color=_KNOWN_COLOUR)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(fontsize=10, fontweight="normal")
    axes.tick_params(labelsize=9)
