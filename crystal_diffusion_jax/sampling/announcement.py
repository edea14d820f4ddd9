"""What the cells of a request hold, in words."""

from collections import Counter

import numpy as np

from crystal_diffusion_jax.request import FormulaRequest, Request
from crystal_diffusion_jax.sampling.compositions import compositions
from crystal_diffusion_jax.structures.compositions import formula_counts, reduced_formula
from crystal_diffusion_jax.trained_model import TrainedModel

_MAX_LINES = 10


def announcement(request: Request, model: TrainedModel) -> list[str]:
    """What the cells hold, in a few lines; [] where that is left to the model."""
    found = compositions(request, model)
    if found is None:
        return []
    sizes = Counter(len(numbers) for numbers in found)
    ends = " to ".join(str(size) for size in sorted({min(sizes), max(sizes)}))
    if not request.formulas:
        kinds = Counter(f"{reduced_formula(each)} ({len(each)} atoms)" for each in found)
        common = ", ".join(f"{kind} {number}" for kind, number in kinds.most_common(5))
        several = f"{len(kinds)} compositions" if len(kinds) > 1 else "1 composition"
        system = "-".join(request.chemical_system or ())
        return [f"{system}: {several}, {ends} atoms in the cell; most common: {common}"]
    groups = [
        (asked, found[place * request.num_each :][: request.num_each])
        for place, asked in enumerate(request.formulas)
    ]
    if len(groups) <= _MAX_LINES:
        return [f"{asked.formula}: {_cells(asked, cells, request)}" for asked, cells in groups]
    line = f"{len(groups)} formulas, {request.num_each} crystals of each: {ends} atoms in the cell"
    if not request.like:
        units = Counter(len(cell) // _atoms(asked) for asked, cells in groups for cell in cells)
        shares = (f"{each} in {number}" for each, number in units.most_common(_MAX_LINES))
        line += f"; Z = {', '.join(shares)} of {request.num}"
    return [line]


def _cells(asked: FormulaRequest, found: list[np.ndarray], request: Request) -> str:
    """Sizes of the cells of one formula, and how many have each."""
    parts: list[str] = []
    for size, crystals in Counter(map(len, found)).most_common():
        atoms = f"{size} atom{'s' * (size > 1)} in the cell" if not parts else f"{size}"
        units = "" if request.like else f" (Z = {size // _atoms(asked)})"
        share = f" in {crystals} of {len(found)} crystals" if not parts else f" in {crystals}"
        parts.append(atoms + units + share * (crystals < len(found)))
    return ", ".join(parts)


def _atoms(asked: FormulaRequest) -> int:
    """Atoms in a formula unit."""
    return sum(count for _, count in formula_counts(asked.formula))
