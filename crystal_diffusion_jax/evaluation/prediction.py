"""Crystal structure prediction: how well predicted crystals answer reference crystals.

A reference crystal gives its composition, and k crystals are predicted for it. Scores of the best
of k, `best_of_k` for which k; lower-case words are the keys of `PredictionScores.scores`:

  match          share of the references that a prediction for them matches: CDVAE's match rate
                 (arXiv:2110.06197), with k predictions the one of DiffCSP (arXiv:2309.04475)
  match_valid    the same, where both crystals have to be valid (`validity`): what DiffCSP's code
                 counts, as its composition and distance tests come before the comparison
  match_polymorph  the same as match, but any reference of the composition may be matched: which of
                 the polymorphs a row stands for cannot be known from its composition
  tight          share matched with a displacement below `TIGHT`
  rmse           mean displacement of the best match, over the references with one
  crmse          mean over all references, where one without a match counts as the tolerance `STOL`
  metre, metre_rmse, metre_crmse  METRe and cRMSE of Martirossyan et al. (arXiv:2509.12178, and
                 their code, FERMat-ML/OMatG): every prediction is compared with every reference of
                 its composition, no matter for which it was made; a reference counts once if any
                 prediction matches it, with the smallest displacement. One polymorph predicted
                 again and again earns match_polymorph, but not METRe

Displacements are explained in `displacements`.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.evaluation.best_of_k import best_of
from crystal_diffusion_jax.evaluation.displacements import displacements
from crystal_diffusion_jax.evaluation.diversity import dataset_structures, rows_by_composition
from crystal_diffusion_jax.evaluation.intervals import Rate, SampleStatistic, bootstrap, rate
from crystal_diffusion_jax.evaluation.validity import is_valid
from crystal_diffusion_jax.structures.comparing import STOL
from crystal_diffusion_jax.structures.compositions import reduced_composition

# Displacements below it are those of one structure in two relaxations.
TIGHT = 0.1

Score = Rate | SampleStatistic


@dataclasses.dataclass(frozen=True)
class Judged:
    """Crystals to be predicted.

    Attributes:
      structures: the R judged ones, then the others of their compositions.
      num: R.
    """

    structures: list[Structure]
    num: int


@dataclasses.dataclass(frozen=True)
class PredictionScores:
    """Scores of predicted crystals.

    Attributes:
      predictions: smallest and largest number of predictions for one reference.
      composition: predictions that have the composition of their reference.
      scores: name -> k -> score, as in the module; a `Rate` where every reference is matched or
        not, otherwise a mean over references.
      volume_error: mean of |V / V_reference - 1| over the references with a match, of all
        predictions that match (of the first, if ranked).
      failures: predicted crystal -> why its comparison, or its relaxation, failed, which counts as
        no match.
    """

    predictions: tuple[int, int]
    composition: Rate
    scores: dict[str, dict[int, Score]]
    volume_error: SampleStatistic
    failures: Mapping[int, str]


def references(dataset: CrystalDataset, rows: Sequence[int]) -> Judged:
    """The crystals of the given rows, and all others of the data set with their compositions."""
    judged = set(rows)
    others = sorted(
        row
        for members in rows_by_composition(dataset).values()
        if not judged.isdisjoint(members)
        for row in members
        if row not in judged
    )
    chosen = np.array([*rows, *others], dtype=int)
    return Judged(dataset_structures(dataset.take(chosen)), len(rows))


def score(
    predicted: Sequence[Structure | None],
    answers: Sequence[Sequence[int]],
    known: Judged,
    ks: Iterable[int],
    ranked: bool = False,
    progress: bool = True,
) -> PredictionScores:
    """Scores predictions.

    Args:
      predicted: crystals by index, None where there is none.
      answers: indices of the predictions for each of the R references, at least one; equal for
        references that share them.
      known: R judged references, and the others of their compositions.
      ks: numbers of predictions of which the best counts.
      ranked: the predictions are ordered by confidence: the first k count, instead of any k.
      progress: show progress bars on stderr.
    """
    found = displacements(predicted, known.structures, progress)
    compositions = [reduced_composition(each.atomic_numbers) for each in known.structures]
    valid = [each is not None and is_valid(each) for each in predicted]
    valid_reference = [is_valid(each) for each in known.structures[: known.num]]

    def own(row: int, index: int) -> float:
        return found.rms.get(index, {}).get(row, np.inf)

    def own_valid(row: int, index: int) -> float:
        return own(row, index) if valid[index] and valid_reference[row] else np.inf

    def polymorph(row: int, index: int) -> float:
        # A crystal of another composition may match references, too.
        matched = found.rms.get(index, {}).items()
        return min((x for q, x in matched if compositions[q] == compositions[row]), default=np.inf)

    pools = {
        name: [[np.array([of(row, i) for i in answers[row]])] for row in range(known.num)]
        for name, of in (("own", own), ("valid", own_valid), ("polymorph", polymorph))
    }
    pools["every"] = _every_pool(answers, found.rms, known.num)
    scores: dict[str, dict[int, Score]] = defaultdict(dict)
    for k in ks:
        best = {name: [best_of(pool, k, ranked) for pool in each] for name, each in pools.items()}
        scores["match"][k] = _share(best["own"])
        scores["match_valid"][k] = _share(best["valid"])
        scores["match_polymorph"][k] = _share(best["polymorph"])
        scores["tight"][k] = _share(best["own"], TIGHT)
        scores["rmse"][k] = _mean_of_matches(best["own"])
        scores["crmse"][k] = _mean_of_all(best["own"])
        scores["metre"][k] = _share(best["every"])
        scores["metre_rmse"][k] = _mean_of_matches(best["every"])
        scores["metre_crmse"][k] = _mean_of_all(best["every"])

    same, errors = [], []
    for row, indices in enumerate(answers):
        reference, of_row = known.structures[row], []
        for place, index in enumerate(indices):
            crystal = predicted[index]
            same.append(
                crystal is not None
                and reduced_composition(crystal.atomic_numbers) == compositions[row]
            )
            if crystal is not None and own(row, index) < np.inf and not (ranked and place):
                ratio = crystal.volume / len(crystal) / (reference.volume / len(reference))
                of_row.append(abs(ratio - 1))
        errors += [np.mean(of_row)] if of_row else []
    sizes = [len(indices) for indices in answers]
    return PredictionScores(
        predictions=(min(sizes), max(sizes)),
        composition=rate(same),
        scores=dict(scores),
        volume_error=bootstrap(np.mean, np.array(errors)),
        failures=found.failures,
    )


def _every_pool(
    answers: Sequence[Sequence[int]], rms: Mapping[int, Mapping[int, float]], num: int
) -> list[list[np.ndarray]]:
    """For each reference the displacements in every pool of predictions that matches it."""
    pools: list[list[np.ndarray]] = [[] for _ in range(num)]
    for indices in dict.fromkeys(map(tuple, answers)):
        matched = {q for index in indices for q in rms.get(index, {}) if q < num}
        for q in sorted(matched):
            pools[q].append(np.array([rms.get(index, {}).get(q, np.inf) for index in indices]))
    return pools


def _share(best: Sequence[np.ndarray], limit: float = np.inf) -> Score:
    """Share of the references with a displacement below the limit."""
    shares = np.array([weights[values < limit].sum() for values, weights in best])
    whole = np.round(shares)
    if np.allclose(shares, whole):
        return rate(whole > 0)
    return bootstrap(np.mean, shares)


def _mean_of_matches(best: Sequence[np.ndarray]) -> SampleStatistic:
    """Mean displacement of the matches, each weighted with its probability."""
    shares = np.array([weights.sum() for _, weights in best])
    sums = np.array([values @ weights for values, weights in best])
    matched = np.flatnonzero(shares > 0)

    def mean(rows: np.ndarray) -> float:
        return float(sums[rows.astype(int)].sum() / shares[rows.astype(int)].sum())

    return bootstrap(mean, matched)


def _mean_of_all(best: Sequence[np.ndarray]) -> SampleStatistic:
    """Mean displacement, with the tolerance for references that are not matched."""
    return bootstrap(
        np.mean,
        np.array([values @ weights + STOL * (1 - weights.sum()) for values, weights in best]),
    )
