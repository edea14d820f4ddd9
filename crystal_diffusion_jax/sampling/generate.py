"""Generates the crystals of one request, batch by batch."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Protocol

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from crystal_diffusion_jax.data.buckets import bucket_sizes
from crystal_diffusion_jax.diffusion.schedules import sampling_times
from crystal_diffusion_jax.request import Request, SampledBatch, Trajectory
from crystal_diffusion_jax.runtime import devices
from crystal_diffusion_jax.sampling import averaging
from crystal_diffusion_jax.sampling.chain import last_state
from crystal_diffusion_jax.sampling.compositions import compositions
from crystal_diffusion_jax.sampling.conditions import (
    allowed_species,
    condition_arrays,
    crystal_sizes,
)
from crystal_diffusion_jax.sampling.given import given_crystals, starting_cells
from crystal_diffusion_jax.sampling.renoising import num_renoised
from crystal_diffusion_jax.sampling.sampler import Sampler, make_sampler
from crystal_diffusion_jax.sampling.trajectory import recording, saved_steps
from crystal_diffusion_jax.structures.canonical import Cell
from crystal_diffusion_jax.structures.compositions import cell_formula, common_oxidation_states
from crystal_diffusion_jax.trained_model import TrainedModel


class Sink(Protocol):
    """Collects the batches of one request."""

    def remaining(self) -> list[int]:
        """Indices of the crystals still to sample, ascending."""

    def counts(self) -> tuple[int, int]:
        """Number of kept and of rejected crystals."""

    def add(self, batch: SampledBatch) -> None:
        """Adds one batch."""


def generate(
    model: TrainedModel,
    request: Request,
    sink: Sink,
    batch_size: int,
    log: Callable[[str], None] = print,
    trajectory: int | None = None,
) -> None:
    """Samples the crystals that the sink does not have yet.

    The noise of crystal i depends on (seed, i) alone, and a resumed request computes in the same
    batch shapes, so it ends with the same crystals. Another batch size rounds differently, which
    can grow along the chain into another crystal.

    Args:
      model: the trained model.
      request: the request.
      sink: collects the crystals.
      batch_size: maximum number of crystals per call of the sampler.
      log: receives progress lines.
      trajectory: also add the states after every so many steps, which leaves the crystals
        unchanged; None for the crystals alone.

    Raises:
      UserError: the sink cannot write a batch.
    """
    statistics = model.statistics
    values = request.values()
    num_atoms = crystal_sizes(request, model)
    given = compositions(request, model)
    remaining = np.array(sink.remaining(), dtype=np.int64)
    started, cells = np.zeros(request.num, bool), dict[int, Cell]()
    if given is not None:
        started, cells = starting_cells(request, model, given, remaining.tolist())
    allowed = allowed_species(request.allowed_elements, statistics.vocabulary)
    use_corrector = request.corrector_step_size != 0
    mesh = devices.data_mesh()

    def sampler(start: int) -> tuple[Sampler, np.ndarray, int]:
        """The sampler from a time on, 0 for all times, those it returns, and calls per crystal."""
        sample = make_sampler(
            model.denoiser,
            model.config.noise,
            request.num_steps,
            request.guidance != 0,
            mesh,
            request.solver,
            use_corrector,
            request.renoising_steps,
            request.averaging_rounds,
            # Given species are not drawn.
            common_oxidation_states(statistics.vocabulary)
            if request.charge_balance and given is None
            else None,
            start,
            last_state if trajectory is None else recording(trajectory),
        )
        times = sampling_times(model.config.noise.num_steps, request.num_steps, start)
        kept_times = times[-1:]
        if trajectory is not None:
            kept_times = times[saved_steps(len(times) - 1, trajectory)]
        calls = (len(times) - 1) * (2 if use_corrector else 1)
        calls += num_renoised(times[:-1], model.config.noise) * request.renoising_steps
        calls += averaging.CALLS * request.averaging_rounds
        return sample, kept_times, calls * (2 if request.guidance else 1)

    begin, todo, done = time.monotonic(), len(remaining), sum(sink.counts())
    total = done + todo  # those of the request that the sink wants
    if trajectory is not None and done:
        log(f"{done} crystals already exist and get no new trajectory")
    if todo:
        log("the first batch of each size compiles or loads the sampler, up to a minute")
    for rows, size, shape in batches(remaining, num_atoms, batch_size, started):
        start = time.monotonic()
        sample, kept_times, calls = sampler(request.start_time if started[rows[0]] else 0)
        # A partial batch is filled up, so that it needs no new program and divides among devices.
        shared = -(-shape // mesh.size) * mesh.size
        filled = np.concatenate([rows, np.full(shared - len(rows), rows[0])])
        known = None
        if given is not None:
            known = given_crystals(
                [given[row] for row in filled], [cells.get(row) for row in filled], size, statistics
            )
        states = sample(
            model.params,
            crystal_keys(np.uint32(request.seed), filled.astype(np.uint32)),
            np.arange(size) < num_atoms[filled][:, None],
            condition_arrays(
                {name: asked[filled] for name, asked in values.items()},
                statistics,
                len(filled),
                species_given=given is not None,
            ),
            request.guidance,
            request.corrector_step_size,
            allowed,
            known,
        )
        lattice, frac_coords, species = (
            np.asarray(array)[: len(rows)]
            for array in (states.lattice, states.frac_coords, states.species)
        )
        if trajectory is None:  # one state per crystal
            lattice, frac_coords, species = lattice[:, None], frac_coords[:, None], species[:, None]
        lattice = lattice * statistics.lattice_unit(num_atoms[rows])[:, None, None, None]
        atomic_numbers = np.array(statistics.vocabulary)[species]
        if given is not None:
            _check_compositions(atomic_numbers, [given[row] for row in rows])
        trajectories = [
            Trajectory(kept_times, lattice[i], frac_coords[i, :, :n], atomic_numbers[i, :, :n])
            for i, n in enumerate(num_atoms[rows])
        ]
        sink.add(SampledBatch(rows.tolist(), trajectories, time.monotonic() - start, calls))
        kept, rejected = sink.counts()
        left = total - kept - rejected
        rate = (todo - left) / (time.monotonic() - begin)
        log(
            f"{total - left}/{total} crystals: {kept} written, {rejected} rejected, "
            f"{rate:.2f} crystals/s, {timedelta(seconds=round(left / rate))} left"
        )


def _check_compositions(atomic_numbers: np.ndarray, given: Sequence[np.ndarray]) -> None:
    """Checks that all states have the species that were given, the promise of a formula.

    Args:
      atomic_numbers: [B, F, N] of the states.
      given: [B] atomic numbers of each composition.

    Raises:
      RuntimeError: they do not, by a defect of the sampler.
    """
    for states, numbers in zip(atomic_numbers, given, strict=True):
        if not np.all(states[:, : len(numbers)] == numbers):
            raise RuntimeError(f"the sampler did not keep the composition {cell_formula(numbers)}")


@jax.jit
def crystal_keys(seed: ArrayLike, indices: ArrayLike) -> Array:
    """[B] PRNG keys of the crystals with these indices in a request."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), indices)


def batches(
    remaining: np.ndarray, num_atoms: np.ndarray, batch_size: int, started: np.ndarray
) -> Iterator[tuple[np.ndarray, int, int]]:
    """Splits the crystals into batches of about the same number of atoms.

    Args:
      remaining: indices of the crystals to sample.
      num_atoms: [num] atoms of all crystals of the request.
      batch_size: maximum number of crystals per batch.
      started: [num] which of them start from crystals; they are not mixed with the others.

    Yields:
      Indices of a batch, number of atoms it is padded to, number of crystals it is filled up to.
    """
    # Both shapes depend on the whole request, so that a resumed one computes the same numbers.
    sizes = bucket_sizes(num_atoms)
    bucket = np.searchsorted(sizes, num_atoms)
    for kind, (index, size) in itertools.product((False, True), enumerate(sizes)):
        together = (bucket == index) & (started == kind)
        rows = remaining[together[remaining]]
        if len(rows) == 0:
            continue
        # As even as possible: crystals that only fill up a small last batch are wasted.
        count = int(np.sum(together))
        shape = math.ceil(count / math.ceil(count / batch_size))
        for start in range(0, len(rows), shape):
            yield rows[start : start + shape], size, shape
