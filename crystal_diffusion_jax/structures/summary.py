"""What a sampling command produced, in a few lines for people."""

import csv
from collections import Counter
from pathlib import Path

from crystal_diffusion_jax.structures.limits import MIN_VALID_DISTANCE

_MOST_COMMON = 5


def summary(table: Path) -> list[str]:
    """Validity, compositions and cell sizes of the written crystals.

    Args:
      table: samples.csv.

    Returns:
      Lines of text; none if there are no crystals.
    """
    formulas: Counter[str] = Counter()
    per_atom: list[float] = []
    valid = 0
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            formulas[row["formula"]] += 1
            per_atom.append(float(row["volume"]) / int(row["num_atoms"]))
            # A single atom has no neighbour.
            valid += not row["min_distance"] or float(row["min_distance"]) >= MIN_VALID_DISTANCE
    if not per_atom:
        return []
    per_atom.sort()
    common = ", ".join(
        f"{formula} {count}" for formula, count in formulas.most_common(_MOST_COMMON)
    )
    return [
        f"no pair of atoms closer than {MIN_VALID_DISTANCE} A: {valid} of {len(per_atom)}",
        f"{len(formulas)} unique compositions; most common: {common}",
        f"volume per atom: median {per_atom[len(per_atom) // 2]:.1f} A^3, "
        f"{per_atom[0]:.1f} to {per_atom[-1]:.1f}",
    ]
