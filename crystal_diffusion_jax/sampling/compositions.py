"""The composition of each requested crystal: of its formula, or drawn from a chemical system.

How many formula units a cell has is drawn as in the training data: with T(f, Z) the number of
training crystals with Z units of the reduced anonymous formula f, and y the requested property,

    p(Z | f, y) ~ T(f, Z) p(N | y) / p(N),    N the atoms of Z units,

as formula and property count as independent given N. For a formula that no training crystal has,
p(N) takes the place of T.

A composition c of N atoms in a chemical system is drawn from

    p(c | y) ~ [(1 - e) T(c) / A(c) + e p(N) / C(N)] p(N | y) / p(N),

T(c) being the number of training crystals with its anonymous formula, A(c) the compositions that
differ from c only in the order of the elements, and C(N) those of N atoms. The compositions, over
which either term adds up to 1 - e and e, are those that can be neutral, or all if none can. The
second term, e = 1 %, is alone and counts 1 where the training data have none of the formulas.
"""

import dataclasses

import numpy as np

from crystal_diffusion_jax.data.arrays import DatasetStatistics
from crystal_diffusion_jax.data.formula_units import anonymous
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.request import Request
from crystal_diffusion_jax.sampling.neutrality import (
    MAX_COMPOSITIONS,
    number_of_compositions,
    system_compositions,
)
from crystal_diffusion_jax.sampling.sizes import (
    inverse,
    known_sizes,
    size_probabilities,
    values_for_sizes,
)
from crystal_diffusion_jax.structures.compositions import (
    SYMBOLS,
    common_oxidation_states,
    formula_counts,
)
from crystal_diffusion_jax.trained_model import TrainedModel

_UNSEEN = 0.01  # e of the module's formula
# Streams of random numbers beside those of the properties, which are named by bytes.
_UNITS_STREAM, _SYSTEM_STREAM = 1000, 1001


def compositions(request: Request, model: TrainedModel) -> list[np.ndarray] | None:
    """Ascending atomic numbers of each crystal's cell ([N] int64); None to leave them to the model.

    The same for the same request; that of crystal i does not depend on `num`, but for the formula
    that it belongs to.

    Raises:
      UserError: no cell of the requested formula or chemical system fits the model.
    """
    if request.formulas:
        return _of_formulas(request, model)
    if request.chemical_system and model.predicts:
        return _of_system(request, model)
    return None


def _ratios(request: Request, model: TrainedModel) -> np.ndarray:
    """[num, S] p(N | y) / p(N) of each crystal, for the S numbers of atoms in the histogram."""
    values = values_for_sizes(request, model)
    prior = size_probabilities({}, 1, model.statistics)
    if not values:
        return np.broadcast_to(1.0, (request.num, prior.shape[1]))
    return size_probabilities(values, request.num, model.statistics) / prior


def _weighted(weights: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """[num, S] probabilities from [S] weights and [num, S] ratios; from weights where all are 0."""
    products = weights * ratios
    products = np.where(products.sum(axis=1, keepdims=True) > 0, products, weights)
    return products / products.sum(axis=1, keepdims=True)


def _of_formulas(request: Request, model: TrainedModel) -> list[np.ndarray]:
    statistics = model.statistics
    draws = np.random.default_rng([request.seed, _UNITS_STREAM]).random((request.num, 1))
    sizes = np.array(statistics.num_atoms_histogram)[:, 0]
    ratios = _ratios(request, model)
    found: list[np.ndarray] = []
    for place, asked in enumerate(request.formulas):
        numbers, counts = np.array(formula_counts(asked.formula), np.int64).T
        rows = slice(place * request.num_each, (place + 1) * request.num_each)
        if asked.formula_units:
            units = np.full(request.num_each, asked.formula_units)
        else:
            possible, weights = units_table(asked.formula, statistics)
            places = np.searchsorted(sizes, possible * counts.sum())
            units = possible[inverse(_weighted(weights, ratios[rows][:, places]), draws[rows])]
        cells = {each: np.repeat(numbers, each * counts) for each in np.unique(units).tolist()}
        found += [cells[each] for each in units.tolist()]
    return found


def units_table(formula: str, statistics: DatasetStatistics) -> tuple[np.ndarray, np.ndarray]:
    """Possible numbers of formula units in a cell, and the weight of each.

    Training crystals of the anonymous formula with so many; if there are none, with so many atoms.

    Args:
      formula: as it was written: Ti2O4 has half as many units in a cell as TiO2.
      statistics: statistics of the training data.

    Raises:
      UserError: no training crystal has a possible number of atoms.
    """
    counts = [count for _, count in formula_counts(formula)]
    atoms, (reduced, divisor) = sum(counts), anonymous(counts)
    table = dict(statistics.formula_units).get(reduced, ())
    pairs = [(units // divisor, number) for units, number in table if units % divisor == 0]
    if not pairs:
        histogram = statistics.num_atoms_histogram
        pairs = [(size // atoms, number) for size, number in histogram if size % atoms == 0]
    if not pairs:
        raise UserError(
            f"--formula: no cell of {formula} fits the model, which was trained on "
            f"{known_sizes(statistics)} atoms: {formula} has {atoms}, and no multiple of it occurs "
            "there"
        )
    units, weights = np.array(pairs).T
    return units, weights


@dataclasses.dataclass(frozen=True)
class System:
    """The compositions of a chemical system.

    Attributes:
      numbers: [k] atomic numbers of its elements, ascending.
      counts: [C, k] atoms of each element.
      weights: [C] probability of each composition, whatever the property; they add up to one.
      neutral: whether these are the neutral ones; there are none otherwise.
    """

    numbers: np.ndarray
    counts: np.ndarray
    weights: np.ndarray
    neutral: bool


def chemical_system(request: Request, statistics: DatasetStatistics) -> System:
    """The compositions of the requested chemical system, and their probabilities.

    Raises:
      UserError: no cell of the model has room for all elements, or compositions are too many.
    """
    symbols = request.chemical_system or ()
    text = f"--chemical_system={'-'.join(symbols)}"
    numbers = [number for number in statistics.vocabulary if SYMBOLS[number] in symbols]
    sizes = [size for size, _ in statistics.num_atoms_histogram]
    if request.num_atoms is not None:
        sizes = [request.num_atoms]
    if sizes[-1] < len(numbers):
        raise UserError(
            f"{text}: a cell of {sizes[-1]} atoms, the most there are, has no room for "
            f"{len(numbers)} elements"
        )
    if (many := number_of_compositions(len(numbers), sizes)) > MAX_COMPOSITIONS:
        raise UserError(
            f"{text} has {many:,} compositions of up to {sizes[-1]} atoms, too many to choose "
            "from: give --num_atoms or fewer elements, or --elements, which leaves the composition "
            "to the model"
        )
    counts, neutral = system_compositions(common_oxidation_states(numbers), tuple(sizes))
    if neutral.any():
        counts = counts[neutral]
    return System(np.array(numbers), counts, _weights(counts, statistics), bool(neutral.any()))


def _weights(counts: np.ndarray, statistics: DatasetStatistics) -> np.ndarray:
    """[C] probability of compositions; the formula of the module without the property."""
    cells, alike = np.unique(np.sort(counts, axis=1), axis=0, return_inverse=True)
    alike = alike.reshape(-1)
    table = {
        (formula, units): crystals
        for formula, by_units in statistics.formula_units
        for units, crystals in by_units
    }
    crystals = np.array([table.get(anonymous(cell), 0) for cell in cells.tolist()], float)
    seen = (crystals / np.bincount(alike))[alike]
    sizes = counts.sum(axis=1)
    histogram = dict(statistics.num_atoms_histogram)
    # A size that no training crystal has is only there if it was asked for, alone.
    known = np.array([histogram.get(size, 1) for size in sizes.tolist()], float)
    unseen = known / np.bincount(sizes)[sizes]
    unseen /= unseen.sum()
    return (1 - _UNSEEN) * seen / seen.sum() + _UNSEEN * unseen if seen.any() else unseen


def _of_system(request: Request, model: TrainedModel) -> list[np.ndarray]:
    system = chemical_system(request, model.statistics)
    sizes, size_of = np.unique(system.counts.sum(axis=1), return_inverse=True)
    weights = np.bincount(size_of, system.weights)
    draws = np.random.default_rng([request.seed, _SYSTEM_STREAM]).random((request.num, 2))
    if request.num_atoms is None:
        known = np.array(model.statistics.num_atoms_histogram)[:, 0]
        ratios = _ratios(request, model)[:, np.searchsorted(known, sizes)]
        drawn = inverse(_weighted(weights, ratios), draws[:, :1])
    else:
        drawn = np.zeros(request.num, int)
    found: list[np.ndarray] = [np.empty(0, np.int64)] * request.num
    for place in np.unique(drawn).tolist():
        members, crystals = np.flatnonzero(size_of == place), np.flatnonzero(drawn == place)
        steps = np.cumsum(system.weights[members])
        chosen = members[
            np.minimum(np.searchsorted(steps, draws[crystals, 1] * steps[-1]), len(members) - 1)
        ]
        for crystal, composition in zip(crystals.tolist(), chosen.tolist(), strict=True):
            found[crystal] = np.repeat(system.numbers, system.counts[composition])
    return found
