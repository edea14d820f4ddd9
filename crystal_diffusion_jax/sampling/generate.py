"""Generates the crystals of one request, batch by batch."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Protocol

import numpy as np

from crystal_diffusion_jax.data.buckets import bucket_sizes
from crystal_diffusion_jax.request import Request, SampledBatch
from crystal_diffusion_jax.sampling.chains import Chains
from crystal_diffusion_jax.sampling.compositions import compositions
from crystal_diffusion_jax.sampling.conditions import charges_can_balance, crystal_sizes
from crystal_diffusion_jax.sampling.given import require_templates, starting_cells
from crystal_diffusion_jax.sampling.placing import Placing
from crystal_diffusion_jax.structures.canonical import Cell
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
    num_atoms = crystal_sizes(request, model)
    given = compositions(request, model)
    remaining = np.array(sink.remaining(), dtype=np.int64)
    started, cells = np.zeros(request.num, bool), dict[int, Cell]()
    if given is not None:
        started, cells = starting_cells(request, model, given, remaining.tolist())
    chains = Chains(model, request, num_atoms, trajectory)
    placing = None
    if given is None and request.start_time:
        balanced = request.charge_balance and charges_can_balance(request, model.statistics)
        placing = Placing(chains, request, require_templates(model, request.model), balanced)
    begin, todo, done = time.monotonic(), len(remaining), sum(sink.counts())
    total = done + todo  # those of the request that the sink wants
    if trajectory is not None and done:
        log(f"{done} crystals already exist and get no new trajectory")
    if todo:
        log("the first batch of each size compiles or loads the sampler, up to a minute")
    for rows, size, shape in batches(remaining, num_atoms, batch_size, started):
        start = time.monotonic()
        if placing is not None:
            states = placing.run(rows, size, shape)
        else:
            states = chains.run(
                rows,
                size,
                shape,
                given=None if given is None else [given[row] for row in rows],
                cells=[cells.get(row) for row in rows],
                start=request.start_time if started[rows[0]] else 0,
                averaging_rounds=request.averaging_rounds,
            )
        seconds = time.monotonic() - start
        sink.add(SampledBatch(rows.tolist(), states.trajectories, seconds, states.calls))
        kept, rejected = sink.counts()
        left = total - kept - rejected
        rate = (todo - left) / (time.monotonic() - begin)
        log(
            f"{total - left}/{total} crystals: {kept} written, {rejected} rejected, "
            f"{rate:.2f} crystals/s, {timedelta(seconds=round(left / rate))} left"
        )


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
