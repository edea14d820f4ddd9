"""A request as arrays: z-scores of the properties, allowed species, numbers of atoms."""

from collections.abc import Collection
from typing import Any

import numpy as np

from crystal_diffusion_jax.data import profile
from crystal_diffusion_jax.data.arrays import DatasetStatistics
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.models.embeddings import Condition
from crystal_diffusion_jax.request import Request
from crystal_diffusion_jax.structures.compositions import SYMBOLS
from crystal_diffusion_jax.trained_model import TrainedModel


def condition_arrays(
    values: dict[str, np.ndarray], statistics: DatasetStatistics, batch_size: int
) -> Condition:
    """The requested values as z-scores, in arrays of NumPy.

    Args:
      values: [B] values of each requested property, in its own unit.
      statistics: statistics of the model's training data.
      batch_size: B.
    """
    names = statistics.property_names
    columns = [
        (values.get(name, np.full(batch_size, mean)) - mean) / std
        for name, mean, std in zip(
            names, statistics.property_mean, statistics.property_std, strict=True
        )
    ]
    shape = (batch_size, len(names))
    z_scores: Any = np.array(columns).T.reshape(shape).astype(np.float32)
    present: Any = np.broadcast_to(np.array([name in values for name in names], bool), shape)
    return Condition(values=z_scores, present=present)


def allowed_species(symbols: Collection[str] | None, vocabulary: tuple[int, ...]) -> np.ndarray:
    """[K] True for the species of these elements; for all if `symbols` is None."""
    return np.array([symbols is None or SYMBOLS[z] in symbols for z in vocabulary])


def crystal_sizes(request: Request, model: TrainedModel) -> np.ndarray:
    """`draw_num_atoms` of a request; p(N) where the model's config says so."""
    values = request.values() if model.config.sampling.sizes_by_property else {}
    return draw_num_atoms(values, request.num, request.seed, request.num_atoms, model.statistics)


def draw_num_atoms(
    values: dict[str, np.ndarray],
    num: int,
    seed: int,
    num_atoms: int | None,
    statistics: DatasetStatistics,
) -> np.ndarray:
    """[num] atoms of each crystal: as requested, or drawn from p(N | y).

    p(N | y) is the histogram of the training crystals whose property is in the same bin
    (`data.profile`). Several properties count as independent given N. Without a property, or where
    the bin is empty, it is the histogram of all training data.

    Args:
      values: [num] values y of each requested property.
      num: number of crystals.
      seed: seed of the draw.
      num_atoms: atoms of every crystal, None to draw it.
      statistics: statistics of the training data.

    Raises:
      UserError: a number outside the range of the training data.
    """
    sizes, counts = np.array(statistics.num_atoms_histogram).T
    if num_atoms is not None:
        if not sizes.min() <= num_atoms <= sizes.max():
            known = f"{sizes.min()} to {sizes.max()}" if len(sizes) > 1 else f"{sizes[0]}"
            raise UserError(f"--num_atoms={num_atoms}: the model was trained on {known} atoms")
        return np.full(num, num_atoms)
    prior = counts / counts.sum()
    probabilities = np.broadcast_to(prior, (num, len(sizes)))
    for name, asked in values.items():
        index = statistics.property_names.index(name)
        table = np.array(statistics.num_atoms_by_property[index], float)
        bins = profile.bin_of(asked, statistics.property_quantiles[index], len(table))
        probabilities = probabilities * table[bins] / prior
    total = probabilities.sum(axis=1, keepdims=True)
    probabilities = np.where(total > 0, probabilities / np.where(total > 0, total, 1.0), prior)
    draws = np.random.default_rng(seed).random((num, 1))
    return sizes[np.minimum(np.sum(draws > probabilities.cumsum(axis=1), axis=1), len(sizes) - 1)]
