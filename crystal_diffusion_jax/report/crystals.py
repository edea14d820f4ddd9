"""Each crystal on the page: as generated, as relaxed, and how far it is to be believed."""

import dataclasses
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from pymatgen.core import Structure
from tqdm import tqdm

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation.hulls import phases_of
from crystal_diffusion_jax.evaluation.report import Report
from crystal_diffusion_jax.potentials.relaxation import RelaxedCrystal
from crystal_diffusion_jax.potentials.relaxed_database import NOT_CHOSEN, UNFINISHED
from crystal_diffusion_jax.report.states import State, beside, cell_of_largest_atom, rounded, state
from crystal_diffusion_jax.structures.compositions import reduced_formula
from crystal_diffusion_jax.structures.reading import Inputs

_ELEMENTS = 118
_ELEMENT = re.compile(r"[A-Z][a-z]?\d*")


@dataclasses.dataclass(frozen=True)
class RelaxedEntry:
    """What relaxing one crystal gave; None where unknown.

    Attributes:
      failure: why it could not be relaxed, "" if it could.
      energy_gain: initial minus final energy, eV/atom.
      rmsd: of the relaxed from the generated structure, Angstrom; None too if they do not match.
      volume_change: final over initial volume, minus 1.
      steps: taken.
      converged: to the forces that were asked for.
      formation_energy: of the relaxed crystal, eV/atom.
      energy_above_hull: eV/atom.
      decomposition: the phases on the hull, "" if unknown.
      compounds_only: none of these is an element.
      state: the relaxed structure, None after a failure.
    """

    failure: str
    energy_gain: float | None
    rmsd: float | None
    volume_change: float | None
    steps: int
    converged: bool
    formation_energy: float | None
    energy_above_hull: float | None
    decomposition: str
    compounds_only: bool
    state: State | None


@dataclasses.dataclass(frozen=True)
class Crystal:
    """One crystal of the page; None where unknown.

    Attributes:
      index: place among those that were asked for.
      name: file, row, frame or index.
      formula: reduced.
      asked: of the property that is predicted, or of all requested ones in words; "" for nothing.
      difference: distance of the prediction from what was asked.
      valid: in structure and composition.
      in_training: a training crystal is the same.
      nearest: formula, property and id of the training crystal nearest in composition, then in
        volume per atom; "" without a training set.
      failure: why it is invalid, has no prediction, or is not compared; "" without.
      generated: the structure.
      relaxed: None if it was not relaxed.
      rank: place on the shortlist, from 1; None if it is not on one.
      failed_check: what kept it off the shortlist, "" if nothing did or there is none.
    """

    index: int
    name: str
    formula: str
    asked: float | str
    difference: float | None
    valid: bool
    in_training: bool | None
    nearest: str
    failure: str
    generated: State
    relaxed: RelaxedEntry | None
    rank: int | None
    failed_check: str


@dataclasses.dataclass(frozen=True)
class Known:
    """What is known of n crystals besides their structures.

    Attributes:
      scores: see `evaluate`.
      asked: what was asked of each.
      differences: [n] distance of the prediction from that, NaN if unknown.
      relaxed_values: index -> prediction for the relaxed crystal.
      train: the training crystals, None if unknown.
      ranks: index -> place on the shortlist.
      failed_checks: index -> what kept the crystal off it.
    """

    scores: Report
    asked: Sequence[float | str]
    differences: np.ndarray
    relaxed_values: Mapping[int, float]
    train: CrystalDataset | None
    ranks: Mapping[int, int]
    failed_checks: Mapping[int, str]


def crystals(
    inputs: Inputs, outcomes: Sequence[RelaxedCrystal], known: Known, symprec: float
) -> list[Crystal]:
    """One per readable crystal, in order.

    Args:
      inputs: n crystals.
      outcomes: what relaxing the first of them gave.
      known: what else is known of them.
      symprec: tolerance of symmetry in Angstrom, for space groups and CIF files.

    Raises:
      UserError: a relaxed crystal has other atoms than the generated one.
    """
    scores, nearest = known.scores, None if known.train is None else _Nearest(known.train)
    reasons = defaultdict(list)
    for failure in scores.failures:
        reasons[failure.index].append(failure.text)
    found = []
    pairs = list(itertools.zip_longest(inputs.structures, outcomes[: len(inputs.structures)]))
    # Finding the symmetry takes longest.
    few = len(pairs) < 100
    for index, (structure, outcome) in enumerate(tqdm(pairs, "symmetry", disable=few)):
        if structure is None:
            continue
        energy = np.nan if outcome is None else outcome.relaxation.initial_energy_per_atom
        drawn_at = cell_of_largest_atom(structure)
        # A crystal whose comparison failed counts as not novel; whether it is, is not known.
        novel = scores.compared.novel if scores.compared.group[index] >= 0 else None
        found.append(
            Crystal(
                index=index,
                name=inputs.names[index],
                formula=reduced_formula(structure.atomic_numbers),
                asked=known.asked[index],
                difference=rounded(known.differences[index]),
                valid=bool(scores.valid[index]),
                in_training=None if novel is None else not novel[index],
                nearest="" if nearest is None else nearest(structure),
                failure="; ".join(reasons[index]),
                generated=state(structure, drawn_at, symprec, scores.values[index], energy),
                relaxed=_relaxed(
                    structure, outcome, known.relaxed_values.get(index, np.nan), symprec
                ),
                rank=known.ranks.get(index),
                failed_check=known.failed_checks.get(index, ""),
            )
        )
    return found


def _relaxed(
    initial: Structure, outcome: RelaxedCrystal | None, value: float, symprec: float
) -> RelaxedEntry | None:
    if outcome is None or outcome.relaxation.failure in (UNFINISHED, NOT_CHOSEN):
        return None
    final, relaxation = outcome.relaxation.structure, outcome.relaxation
    drawn = None
    if final is not None:
        require_same_atoms(initial, outcome)
        energy = relaxation.energy_per_atom
        drawn = state(final, beside(initial, final), symprec, value, energy)
    return RelaxedEntry(
        failure=relaxation.failure or "",
        energy_gain=rounded(outcome.energy_gain),
        rmsd=rounded(outcome.rmsd),
        volume_change=rounded(outcome.volume_change),
        steps=relaxation.steps,
        converged=relaxation.converged,
        formation_energy=rounded(outcome.formation_energy_per_atom),
        energy_above_hull=rounded(outcome.energy_above_hull),
        decomposition=outcome.decomposition,
        compounds_only=_compounds_only(outcome.decomposition),
        state=drawn,
    )


def require_same_atoms(initial: Structure, outcome: RelaxedCrystal) -> None:
    """Raises UserError if a relaxed crystal has other atoms than the generated one."""
    final = outcome.relaxation.structure
    if final is not None and final.atomic_numbers != initial.atomic_numbers:
        raise UserError(
            f"The relaxed crystal of {outcome.name} has other atoms than the generated one: relax "
            "these crystals again."
        )


def _compounds_only(decomposition: str) -> bool:
    """Whether phases such as "F2 (0.200) + ScF3 (0.800)" are all compounds; False for none."""
    return bool(decomposition) and not any(map(_ELEMENT.fullmatch, phases_of(decomposition)))


class _Nearest:
    """Finds the training crystal nearest in atomic fractions, then in volume per atom."""

    def __init__(self, train: CrystalDataset) -> None:
        self._train = train
        self._fractions = np.zeros((len(train), _ELEMENTS + 1), np.float32)
        row = np.repeat(np.arange(len(train)), train.num_atoms)
        np.add.at(self._fractions, (row, train.atomic_numbers), 1.0)
        self._fractions /= train.num_atoms[:, None]
        self._volume = np.abs(np.linalg.det(train.lattice)) / train.num_atoms

    def __call__(self, structure: Structure) -> str:
        wanted = np.bincount(structure.atomic_numbers, minlength=_ELEMENTS + 1) / len(structure)
        distance = np.abs(self._fractions - wanted).sum(axis=1).round(4)
        closest = np.flatnonzero(distance == distance.min())
        volume = structure.volume / len(structure)
        row = int(closest[np.argmin(np.abs(self._volume[closest] - volume))])
        found = self._train.take(np.array([row]))
        values = "".join(f", {value:.3f}" for value in found.properties[0, :1])
        return f"{reduced_formula(found.atomic_numbers)}{values} ({found.material_ids[0]})"


def element_counts(structures: Sequence[Structure | None]) -> Counter[str]:
    """Symbol -> number of crystals that contain the element."""
    return Counter(
        element.symbol
        for structure in structures
        if structure is not None
        for element in structure.composition.elements
    )
