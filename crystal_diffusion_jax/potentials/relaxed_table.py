"""What is exported from a relaxed.db: relaxed.csv, and one CIF per relaxed crystal."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from crystal_diffusion_jax.potentials.relaxation import RelaxedCrystal
from crystal_diffusion_jax.runtime.files import replace_pieces, replace_text
from crystal_diffusion_jax.structures.cif_writer import to_cif
from crystal_diffusion_jax.structures.compositions import reduced_formula
from crystal_diffusion_jax.structures.export import CIF_FOLDER, cif_name, csv_line
from crystal_diffusion_jax.structures.reading import Inputs

TABLE = "relaxed.csv"
HULL_COLUMNS = ("formation_energy_per_atom", "energy_above_hull", "decomposition")
SYMPREC = 0.1  # Angstrom, for the symmetry in the CIFs, as of `sample`
_MAX_STEM = 100
# Names of crystals that have only a number.
_NUMBERED = re.compile(r"(sample|frame|step|row|entry) \d+")


def cif_names(inputs: Inputs) -> dict[int, str]:
    """File name of each crystal's CIF, by index.

    That of the crystal's own file or id; 00042_BaTiO3.cif, as `sample` has it, if it has neither.
    """
    stems = {
        index: _stem(inputs.names[index])
        for index, structure in enumerate(inputs.structures)
        if structure is not None
    }
    counts = Counter(stem.lower() for stem in stems.values())
    names = {}
    for index, stem in stems.items():
        structure = inputs.structures[index]
        assert structure is not None
        if _NUMBERED.fullmatch(inputs.names[index]):
            names[index] = cif_name(index, structure)
        elif counts[stem.lower()] > 1:
            names[index] = f"{index:05d}_{stem}.cif"
        else:
            names[index] = f"{stem}.cif"
    return names


def _stem(name: str) -> str:
    """A name as the stem of a file; a path within an archive becomes one word."""
    stem = re.sub(r"\.cif$", "", name, flags=re.IGNORECASE)
    return re.sub(r"[^\w+.-]", "_", stem, flags=re.ASCII).lstrip(".")[:_MAX_STEM] or "crystal"


def write_cifs(out: Path, texts: Mapping[str, str]) -> None:
    """Writes CIFs by name into OUT/cif; each is complete once it has its name.

    Raises:
      OSError: one cannot be written.
    """
    folder = out / CIF_FOLDER
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        replace_text(folder / name, text)


def write_missing_cifs(out: Path, relaxed: Sequence[RelaxedCrystal], inputs: Inputs) -> None:
    """Writes the CIFs that a kill kept from being written.

    Raises:
      OSError: one cannot be written.
    """
    for index, name in cif_names(inputs).items():
        structure = relaxed[index].relaxation.structure
        if structure is not None and not (out / CIF_FOLDER / name).exists():
            write_cifs(out, {name: to_cif(structure, SYMPREC)})


def write_table(out: Path, relaxed: Sequence[RelaxedCrystal], inputs: Inputs, hull: bool) -> None:
    """Writes relaxed.csv, one row per requested crystal; what is unknown is an empty cell.

    Args:
      out: the folder.
      relaxed: outcome of every crystal.
      inputs: the crystals.
      hull: also write the `HULL_COLUMNS`.

    Raises:
      OSError: it cannot be written.
    """

    def lines() -> Iterator[str]:
        header = ["name", "formula", "initial_energy_per_atom", "energy_per_atom", "energy_gain"]
        header += ["rmsd", "volume_change", "steps", "converged", "failure"]
        yield _line([*header, *(HULL_COLUMNS if hull else ())])
        for one, structure in zip(relaxed, inputs.structures, strict=True):
            outcome = one.relaxation
            yield _line(
                [
                    one.name,
                    "" if structure is None else reduced_formula(structure.atomic_numbers),
                    outcome.initial_energy_per_atom,
                    outcome.energy_per_atom,
                    one.energy_gain,
                    one.rmsd,
                    one.volume_change,
                    outcome.steps,
                    outcome.converged,
                    outcome.failure or "",
                    *(getattr(one, name) for name in HULL_COLUMNS if hull),
                ]
            )

    replace_pieces(out / TABLE, lines())


def _line(values: Sequence[Any]) -> str:
    """Numbers to a microvolt-electron and a millionth of an Angstrom; NaN is an empty cell."""
    cells = [
        ("" if math.isnan(value) else f"{value:.6f}") if isinstance(value, float) else value
        for value in values
    ]
    return csv_line(cells)
