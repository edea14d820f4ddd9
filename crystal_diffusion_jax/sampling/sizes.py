"""Numbers of atoms: drawn as in the training data, given the requested properties."""

from collections.abc import Collection

import numpy as np

from crystal_diffusion_jax.data import profile
from crystal_diffusion_jax.data.arrays import DatasetStatistics
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.request import Request
from crystal_diffusion_jax.trained_model import TrainedModel


def values_for_sizes(request: Request, model: TrainedModel) -> dict[str, np.ndarray]:
    """[num] requested values on which sizes depend; none where the model's config says so."""
    return request.values() if model.config.sampling.sizes_by_property else {}


def size_probabilities(
    values: dict[str, np.ndarray], num: int, statistics: DatasetStatistics
) -> np.ndarray:
    """[num, S] p(N | y) of each crystal, for the S numbers of atoms in the histogram.

    It is the histogram of the training crystals whose property is in the same bin
    (`data.profile`). Several properties count as independent given N. Without a property, or where
    the bin is empty, it is the histogram of all training data.

    Args:
      values: [num] values y of each requested property, NaN where a crystal has none.
      num: number of crystals.
      statistics: statistics of the training data.
    """
    counts = np.array(statistics.num_atoms_histogram)[:, 1]
    prior = counts / counts.sum()
    probabilities = np.broadcast_to(prior, (num, len(counts)))
    for name, asked in values.items():
        index = statistics.property_names.index(name)
        table = np.array(statistics.num_atoms_by_property[index], float)
        bins = profile.bin_of(asked, statistics.property_quantiles[index], len(table))
        given = probabilities * table[bins] / prior
        probabilities = np.where(np.isnan(asked)[:, None], probabilities, given)
    total = probabilities.sum(axis=1, keepdims=True)
    return np.where(total > 0, probabilities / np.where(total > 0, total, 1.0), prior)


def check_num_atoms(num_atoms: int, statistics: DatasetStatistics) -> None:
    """Checks the flag `--num_atoms`.

    Raises:
      UserError: a number outside the range of the training data.
    """
    sizes = [size for size, _ in statistics.num_atoms_histogram]
    if not sizes[0] <= num_atoms <= sizes[-1]:
        raise UserError(
            f"--num_atoms={num_atoms}: the model was trained on {known_sizes(statistics)} atoms"
        )


def known_sizes(statistics: DatasetStatistics) -> str:
    """Smallest and largest number of atoms, in words."""
    sizes = [size for size, _ in statistics.num_atoms_histogram]
    return f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"{sizes[0]}"


def draw_num_atoms(
    values: dict[str, np.ndarray],
    num: int,
    seed: int,
    num_atoms: int | None,
    statistics: DatasetStatistics,
    possible: Collection[int] | None = None,
) -> np.ndarray:
    """[num] atoms of each crystal: as requested, or drawn from p(N | y), see `size_probabilities`.

    Args:
      values: [num] values y of each requested property.
      num: number of crystals.
      seed: seed of the draw.
      num_atoms: atoms of every crystal, None to draw it.
      statistics: statistics of the training data.
      possible: the only numbers of atoms to draw, some of the histogram; None for all.

    Raises:
      UserError: a number outside the range of the training data.
    """
    if num_atoms is not None:
        check_num_atoms(num_atoms, statistics)
        return np.full(num, num_atoms)
    sizes, counts = np.array(statistics.num_atoms_histogram).T
    probabilities = size_probabilities(values, num, statistics)
    # Where all are possible nothing changes, to the last digit.
    if possible is not None and not set(sizes.tolist()) <= set(possible):
        kept = np.isin(sizes, list(possible))
        sizes, counts, probabilities = sizes[kept], counts[kept], probabilities[:, kept]
        total = probabilities.sum(axis=1, keepdims=True)
        prior = counts / counts.sum()
        probabilities = np.where(total > 0, probabilities / np.where(total > 0, total, 1.0), prior)
    draws = np.random.default_rng(seed).random((num, 1))
    return sizes[inverse(probabilities, draws)]


def inverse(probabilities: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """[num] places in discrete distributions at which these draws from [0, 1) are.

    Args:
      probabilities: [num, S] or [1, S], whose rows add up to one.
      draws: [num, 1].
    """
    places = np.sum(draws > probabilities.cumsum(axis=1), axis=1)
    return np.minimum(places, probabilities.shape[1] - 1)
