"""Reference energies of the elements: choice of crystals, least squares, errors, control."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from crystal_diffusion_jax.potentials.hull import NEAR_HULL, Hull
from crystal_diffusion_jax.potentials.references import References, formation_energy
from studies.compound_classes import CLASSES, compound_class

# eV^2 per eV^2; moves the fit of an element that ten crystals have by less than 1 meV/atom.
RIDGE = 1e-4
# Fewer crystals with an element are chosen only where there are no more.
_AT_LEAST = 10


@dataclasses.dataclass(frozen=True)
class Energies:
    """M crystals with formation energies by label and energies of the potential.

    Attributes:
      numbers: M arrays of atomic numbers.
      labels: [M] formation energies in eV/atom.
      energies: [M] energies of the potential in eV/atom, NaN where it has none.
    """

    numbers: list[np.ndarray]
    labels: np.ndarray
    energies: np.ndarray


@dataclasses.dataclass(frozen=True)
class FormationError:
    """Error of formation energies from a potential against labels.

    Attributes:
      num_crystals: of the test split.
      mae: mean absolute error in eV/atom.
    """

    num_crystals: int
    mae: float


@dataclasses.dataclass(frozen=True)
class HullCounts:
    """How many crystals lie near the hull.

    Attributes:
      num_crystals: all of them.
      at_or_below: number at or below the hull.
      near: number less than `NEAR_HULL` above it, those below included.
    """

    num_crystals: int
    at_or_below: int
    near: int

    @classmethod
    def of(cls, energies_above_hull: Iterable[float]) -> "HullCounts":
        """The counts for some energies in eV/atom."""
        energies = np.array(list(energies_above_hull))
        return cls(len(energies), int((energies <= 0).sum()), int((energies < NEAR_HULL).sum()))


@dataclasses.dataclass(frozen=True)
class HullControl:
    """Real held-out crystals above the hull of the training set's labels: what a rate is worth.

    Each test crystal is compared with other formulas only, as if it were new. A complete hull would
    leave about as many crystals at or below it as the source of the data states.

    Attributes:
      by_label: of all test crystals, with their labels.
      by_label_among_compounds: of those that decompose into compounds only.
      by_potential: with the potential's formation energies of the same unrelaxed crystals.
      by_potential_among_compounds: of those that decompose into compounds only.
      by_source: of the same crystals by their label in the Materials Project (`e_above_hull`),
        whose hull knows the crystals themselves; None where the data have no such label.
    """

    by_label: HullCounts
    by_label_among_compounds: HullCounts
    by_potential: HullCounts
    by_potential_among_compounds: HullCounts
    by_source: HullCounts | None


@dataclasses.dataclass(frozen=True)
class FittedReferences(References):
    """Reference energies with how they were fitted, and how well they do.

    Attributes:
      potential: name of the potential.
      wheel_sha256: checksum of the file that its weights come from.
      command: that fitted them.
      date: day of the fit.
      num_crystals: of the training split, that they were fitted on.
      ridge: weight of the penalty on reference energies.
      counts: number of these crystals with each element.
      test: "all" and each class of compounds in the test split -> its error.
      num_not_tested: test crystals with an element without reference, or without energy.
      control: test crystals above the hull.
    """

    potential: str
    wheel_sha256: str
    command: str
    date: str
    num_crystals: int
    ridge: float
    counts: Mapping[int, int]
    test: Mapping[str, FormationError]
    num_not_tested: int
    control: HullControl


def choose(numbers: Sequence[np.ndarray], num: int, seed: int) -> np.ndarray:
    """Rows of `num` random crystals among which every element occurs ten times, if it does at all.

    Elements with few crystals are served first, each with random ones; then the rest is random.
    More than `num` rows are returned only if the elements need them.
    """
    order = np.random.default_rng(seed).permutation(len(numbers))
    elements = [set(map(int, numbers[row])) for row in order]
    frequency = Counter(element for each in elements for element in each)
    chosen: dict[int, None] = {}  # ordered
    counts: Counter[int] = Counter()
    for element in sorted(frequency, key=lambda e: (frequency[e], e)):
        for row, each in zip(order, elements, strict=True):
            if counts[element] >= _AT_LEAST:
                break
            if element in each and int(row) not in chosen:
                chosen[int(row)] = None
                counts.update(each)
    others = [int(row) for row in order if int(row) not in chosen]
    return np.array(sorted([*chosen, *others[: max(0, num - len(chosen))]]))


def fit(sample: Energies, towards: Mapping[int, float]) -> dict[int, float]:
    """Reference energies in eV by atomic number: ridge least squares over the sample's crystals.

    Minimises sum_m (E_m - sum_Z x_mZ mu_Z - label_m)^2 + ridge sum_Z (mu_Z - towards_Z)^2 with the
    share x_mZ of the atoms of crystal m that are of element Z.

    Args:
      sample: crystals; those without an energy are left out.
      towards: energies that the penalty draws to, 0 where missing.
    """
    rows = np.flatnonzero(np.isfinite(sample.energies))
    elements = sorted({int(number) for row in rows for number in sample.numbers[row]})
    shares = np.array(
        [[np.mean(sample.numbers[row] == element) for element in elements] for row in rows]
    )
    prior = np.array([towards.get(element, 0.0) for element in elements])
    residual = (sample.energies - sample.labels)[rows] - shares @ prior
    normal = shares.T @ shares + RIDGE * np.eye(len(elements))
    fitted = prior + np.linalg.solve(normal, shares.T @ residual)
    return dict(zip(elements, map(float, fitted), strict=True))


def formation_energies(crystals: Energies, fitted: Mapping[int, float]) -> np.ndarray:
    """[M] formation energies of the potential in eV/atom, NaN where there is none."""
    pairs = zip(crystals.numbers, crystals.energies, strict=True)
    return np.array([formation_energy(fitted, *pair) for pair in pairs])


def errors_by_class(crystals: Energies, predicted: np.ndarray) -> dict[str, FormationError]:
    """The errors of predicted formation energies [M], of all crystals and of each class."""
    known = np.isfinite(predicted)
    classes = np.array([compound_class(each) for each in crystals.numbers])
    found = {}
    for name in ("all", *CLASSES):
        rows = known & ((classes == name) | (name == "all"))
        if rows.any():
            errors = np.abs(predicted - crystals.labels)[rows]
            found[name] = FormationError(int(rows.sum()), float(errors.mean()))
    return found


def hull_control(
    known: Hull, crystals: Energies, predicted: np.ndarray, above_source: np.ndarray | None
) -> HullControl:
    """Where crystals lie above the hull of others, by label and by prediction ([M] each)."""

    def counts(formation: Iterable[float]) -> tuple[HullCounts, HullCounts]:
        pairs = zip(crystals.numbers, formation, strict=True)
        found = [known.above(*pair, leave_out_own_formula=True) for pair in pairs]
        placed = [each for each in found if each is not None]
        among = [each.energy for each in placed if each.compounds_only]
        return HullCounts.of(each.energy for each in placed), HullCounts.of(among)

    return HullControl(
        *counts(crystals.labels),
        *counts(predicted),
        by_source=None if above_source is None else HullCounts.of(above_source),
    )
