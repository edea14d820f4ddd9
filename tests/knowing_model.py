"""A model that knows formulas, for tests of what is asked of it: the network is any."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crystal_diffusion_jax.data import training_crystals
from crystal_diffusion_jax.data.formula_units import FormulaUnits
from crystal_diffusion_jax.trained_model import TrainedModel
from tests.test_batches import made_up

SIZES = tuple((size, 10 * size) for size in range(2, 21))


def knowing(
    model: TrainedModel,
    formula_units: FormulaUnits = (),
    sizes: Sequence[tuple[int, int]] = SIZES,
    by_property: Sequence[Sequence[int]] = (),
    folder: Path | None = None,
) -> TrainedModel:
    """The model with cells of other sizes, and a table of formula units.

    Args:
      model: with one property.
      formula_units: the table.
      sizes: numbers of atoms and how often each occurs.
      by_property: 20 rows of counts; by default the property says nothing about the size.
      folder: takes training crystals of any kind; None for a model without them.
    """
    counts = tuple(count for _, count in sizes)
    rows = tuple(tuple(row) for row in by_property) or 20 * (counts,)
    statistics = dataclasses.replace(
        model.statistics,
        num_atoms_histogram=tuple(sizes),
        num_atoms_by_property=(rows,),
        formula_units=formula_units,
    )
    loss = dataclasses.replace(model.config.loss, species_given=0.5)
    config = dataclasses.replace(model.config, loss=loss)
    if folder is not None:
        training_crystals.save(made_up(np.array([3, 5])), folder)
    vector = {"species_given": np.zeros(config.model.width, np.float32)}
    return dataclasses.replace(
        model,
        params={**model.params, **vector},
        config=config,
        statistics=statistics,
        folder=folder,
    )
