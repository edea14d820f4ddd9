"""A request as arrays: z-scores of the properties, allowed species, numbers of atoms."""

from collections.abc import Collection
from typing import Any

import numpy as np

from crystal_diffusion_jax.data.arrays import DatasetStatistics
from crystal_diffusion_jax.models.embeddings import Condition
from crystal_diffusion_jax.request import Request
from crystal_diffusion_jax.sampling import charges
from crystal_diffusion_jax.sampling.compositions import compositions
from crystal_diffusion_jax.sampling.neutrality import check_neutral, neutral_sizes
from crystal_diffusion_jax.sampling.sizes import (
    check_num_atoms,
    draw_num_atoms,
    values_for_sizes,
)
from crystal_diffusion_jax.structures.compositions import SYMBOLS, common_oxidation_states
from crystal_diffusion_jax.trained_model import TrainedModel


def condition_arrays(
    values: dict[str, np.ndarray],
    statistics: DatasetStatistics,
    batch_size: int,
    species_given: bool = False,
) -> Condition:
    """The requested values as z-scores, in arrays of NumPy.

    Args:
      values: [B] values of each requested property, in its own unit; NaN where a crystal has no
        request for it.
      statistics: statistics of the model's training data.
      batch_size: B.
      species_given: whether the species are given.
    """
    names = statistics.property_names
    columns = [
        (values.get(name, np.full(batch_size, np.nan)) - mean) / std
        for name, mean, std in zip(
            names, statistics.property_mean, statistics.property_std, strict=True
        )
    ]
    z_scores = np.array(columns).T.reshape(batch_size, len(names)).astype(np.float32)
    present: Any = ~np.isnan(z_scores)
    known: Any = np.where(present, z_scores, np.float32(0))
    given: Any = np.ones(batch_size, bool) if species_given else None
    return Condition(values=known, present=present, species_given=given)


def allowed_species(symbols: Collection[str] | None, vocabulary: tuple[int, ...]) -> np.ndarray:
    """[K] True for the species of these elements; for all if `symbols` is None."""
    return np.array([symbols is None or SYMBOLS[z] in symbols for z in vocabulary])


def charges_can_balance(request: Request, statistics: DatasetStatistics) -> bool:
    """Whether balanced charges are possible with the allowed elements and the model's sizes."""
    allowed = allowed_species(request.allowed_elements, statistics.vocabulary)
    states = common_oxidation_states(statistics.vocabulary)
    sizes = neutral_sizes(request, statistics)
    return bool(sizes) and charges.can_balance(states, allowed.tolist())


def crystal_sizes(request: Request, model: TrainedModel) -> np.ndarray:
    """[num] atoms of each crystal: of its composition, or as `draw_num_atoms` draws them.

    With balanced charges, numbers of atoms that no neutral crystal has are not drawn, unless none
    of them can be neutral.

    Raises:
      UserError: a number of atoms or a composition that does not fit the model.
    """
    statistics = model.statistics
    if request.num_atoms is not None:
        check_num_atoms(request.num_atoms, statistics)
    possible = neutral_sizes(request, statistics) if request.charge_balance else []
    if possible and request.num_atoms is not None:
        check_neutral(request, possible)
    found = compositions(request, model)
    if found is not None:
        return np.array([len(numbers) for numbers in found])
    return draw_num_atoms(
        values_for_sizes(request, model),
        request.num,
        request.seed,
        request.num_atoms,
        statistics,
        possible or None,
    )
