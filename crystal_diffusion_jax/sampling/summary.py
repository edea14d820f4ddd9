"""What came out of one sampling command, in a few lines for people."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from crystal_diffusion_jax.structures.limits import MIN_VALID_DISTANCE

_MOST_COMMON = 5


def summary(structures: Iterable[Mapping[str, Any]]) -> list[str]:
    """Validity, compositions and cell sizes of the written structures.

    Args:
      structures: entries of samples.json, each with formula, min_distance (Angstrom, None for a
        single atom), volume (Angstrom^3) and atomic_numbers.

    Returns:
      Lines of text; none for no structures.
    """
    formulas: Counter[str] = Counter()
    per_atom: list[float] = []
    valid = 0
    for entry in structures:
        formulas[entry["formula"]] += 1
        per_atom.append(entry["volume"] / len(entry["atomic_numbers"]))
        distance = entry["min_distance"]
        valid += distance is None or distance >= MIN_VALID_DISTANCE
    if not per_atom:
        return []
    per_atom.sort()
    common = ", ".join(
        f"{formula} {count}" for formula, count in formulas.most_common(_MOST_COMMON)
    )
    return [
        f"no pair of atoms closer than {MIN_VALID_DISTANCE} A: {valid} of {len(per_atom)}",
        f"{len(formulas)} distinct compositions; most common: {common}",
        f"volume per atom: median {per_atom[len(per_atom) // 2]:.1f} A^3, "
        f"{per_atom[0]:.1f} to {per_atom[-1]:.1f}",
    ]
