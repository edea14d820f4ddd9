"""A model that knows formulas, for tests of what is asked of it: the network is any."""

import dataclasses
from collections.abc import Sequence

from crystal_diffusion_jax.data.formula_units import FormulaUnits
from crystal_diffusion_jax.trained_model import TrainedModel

SIZES = tuple((size, 10 * size) for size in range(2, 21))


def knowing(
    model: TrainedModel,
    formula_units: FormulaUnits = (),
    sizes: Sequence[tuple[int, int]] = SIZES,
    by_property: Sequence[Sequence[int]] = (),
) -> TrainedModel:
    """The model with cells of other sizes, and a table of formula units.

    Args:
      model: with one property.
      formula_units: the table.
      sizes: numbers of atoms and how often each occurs.
      by_property: 20 rows of counts; by default the property says nothing about the size.
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
    return dataclasses.replace(model, config=config, statistics=statistics)
