"""Crystals whose species are given: the species, and templates to start from, as arrays."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.data import training_crystals
from crystal_diffusion_jax.data.arrays import CrystalDataset, DatasetStatistics
from crystal_diffusion_jax.data.templates import Templates
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.request import NOISE, TEMPLATE, Request
from crystal_diffusion_jax.structures.canonical import Cell
from crystal_diffusion_jax.trained_model import TrainedModel


def starting_cells(
    request: Request,
    model: TrainedModel,
    compositions: Sequence[np.ndarray],
    remaining: Sequence[int],
) -> tuple[np.ndarray, dict[int, Cell]]:
    """Which crystals of a request start from a template, and the templates of those to sample.

    Args:
      request: the request.
      model: the model.
      compositions: [num] atomic numbers of each cell, ascending.
      remaining: indices of the crystals to sample, as the search takes its time.

    Returns:
      [num] bool, False for pure noise; index -> template.

    Raises:
      UserError: as `require_templates`.
    """
    if not request.start_time:
        return np.zeros(request.num, bool), {}
    train = require_templates(model, request.model)
    templates = Templates(train)
    started = np.array([numbers in templates for numbers in compositions])
    ranks: list[int] = []
    for first in range(0, request.num, request.num_each):
        so_far: Counter[bytes] = Counter()
        for numbers in compositions[first : first + request.num_each]:
            ranks.append(so_far[numbers.tobytes()])
            so_far[numbers.tobytes()] += 1
    wanted = [index for index in remaining if started[index]]
    cells = template_cells(
        [compositions[index] for index in wanted], [ranks[index] for index in wanted], templates
    )
    return started, dict(zip(wanted, cells, strict=True))


def require_templates(model: TrainedModel, name: str) -> CrystalDataset:
    """The training crystals of a model, which are the templates.

    Raises:
      UserError: it came without them.
    """
    train = model.training_crystals()
    if train is None:
        raise UserError(
            f"--start={TEMPLATE}: {name} came without its training crystals "
            f"({training_crystals.FILE}), which would be the templates: take a model that has "
            f"them, or give --start={NOISE}"
        )
    return train


def without_template(compositions: Sequence[np.ndarray], train: CrystalDataset) -> list[np.ndarray]:
    """Those of the compositions of which `template_cells` has none."""
    templates = Templates(train)
    return [numbers for numbers in compositions if numbers not in templates]


def template_cells(
    compositions: Sequence[np.ndarray], ranks: Sequence[int], templates: Templates
) -> list[Cell]:
    """A template for each crystal, its atoms in the order of the composition.

    The crystals of one composition share its templates, the best first, from the beginning again
    when they run out.

    Args:
      compositions: [n] atomic numbers of each cell, ascending, all of them in `templates`.
      ranks: [n] number of each crystal among those of its composition.
      templates: the training crystals.

    Returns:
      [n] cells.
    """
    wanted = [
        (tuple(numbers.tolist()), rank) for numbers, rank in zip(compositions, ranks, strict=True)
    ]
    highest = dict(sorted(wanted))  # the highest rank of each comes last
    found: dict[tuple[int, ...], list[Cell]] = {}
    # About 15 compositions a second.
    for composition, rank in tqdm(highest.items(), desc="templates", disable=not highest):
        best = templates.find(composition, rank + 1)
        found[composition] = [sorted_cell(each.cell) for each in best]
    return [found[composition][rank % len(found[composition])] for composition, rank in wanted]


def sorted_cell(cell: Cell) -> Cell:
    """The same crystal, its atoms in the order of their atomic numbers."""
    order = np.argsort(cell.atomic_numbers, kind="stable")
    return Cell(cell.lattice, cell.frac_coords[order], cell.atomic_numbers[order])


def given_crystals(
    compositions: Sequence[np.ndarray],
    cells: Sequence[Cell | None],
    size: int,
    statistics: DatasetStatistics,
) -> Crystals:
    """The argument `given` of a sampler, in arrays of NumPy.

    Args:
      compositions: [B] atomic numbers of each cell, all known to the model.
      cells: [B] crystals to start from, their atoms in the same order; None for pure noise.
      size: number of atoms that the batch is padded to.
      statistics: statistics of the model's training data.
    """
    num = len(compositions)
    num_atoms = np.array([len(numbers) for numbers in compositions])
    species = np.zeros((num, size), np.int32)
    frac_coords = np.zeros((num, size, 3), np.float32)
    lattice = np.broadcast_to(np.eye(3, dtype=np.float32), (num, 3, 3)).copy()
    for row, numbers in enumerate(compositions):
        species[row, : len(numbers)] = np.searchsorted(statistics.vocabulary, numbers)
    for row, cell in enumerate(cells):
        if cell is None:
            continue
        frac_coords[row, : len(cell.atomic_numbers)] = cell.frac_coords
        lattice[row] = cell.lattice / statistics.lattice_unit(num_atoms[row : row + 1])[0]
    mask = np.arange(size) < num_atoms[:, None]
    arrays: dict[str, object] = {
        "lattice": lattice,
        "frac_coords": frac_coords,
        "species": species,
        "mask": mask,
    }
    return Crystals(**arrays)  # type: ignore[arg-type]  # NumPy's arrays, see `condition_arrays`
