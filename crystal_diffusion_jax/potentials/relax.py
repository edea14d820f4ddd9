"""Relaxes any number of crystals with CHGNet, many at a time, on all devices.

Each device has lanes: threads that take a batch of crystals, run a round of steps on it, renew the
neighbour lists, and hand the crystals back. Those that have converged leave, and others move in.
"""

import concurrent.futures
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax import Device
from pymatgen.core import Structure
from tqdm import tqdm

from crystal_diffusion_jax.potentials import chgnet, descent, packing, rounds, weights
from crystal_diffusion_jax.potentials.descent import Descent
from crystal_diffusion_jax.potentials.neighbours import Capacity
from crystal_diffusion_jax.potentials.relaxation import MAX_STRESS, Relaxation, RelaxSettings
from crystal_diffusion_jax.potentials.rounds import Limits, Potential

# With the skins of the lists, final energies agree to 0.01 meV/atom with lists made at each step.
_STEPS_PER_ROUND = 10
# Crystals that tell how many bonds and angles there are in proportion.
_FIRST_LOOK = 64


def relax(
    structures: Iterable[Structure],
    settings: RelaxSettings,
    progress: bool = True,
    total: int | None = None,
) -> Iterator[tuple[int, Relaxation]]:
    """Moves the atoms and cells of crystals downhill in energy.

    A crystal has converged when no force on an atom exceeds `settings.fmax` and no component of the
    stress `MAX_STRESS`. Its path does not depend on the others. Memory does not grow with the
    number of crystals: they are read as they are needed.

    Args:
      structures: the crystals.
      settings: how to relax them, with CHGNet.
      progress: show a progress bar on stderr.
      total: number of crystals, for the progress bar.

    Yields:
      Index of a crystal and what became of it, as crystals finish.

    Raises:
      UserError: the weights cannot be downloaded.
    """
    limits = Limits(
        force=settings.fmax,
        stress=np.inf if settings.fixed_cell else MAX_STRESS / chgnet.GPA,
        steps=settings.max_steps,
        fixed_cell=settings.fixed_cell,
    )
    finished = relax_with(chgnet.outputs, weights.load(progress), structures, limits)
    yield from tqdm(finished, desc="relax", total=total, unit=" crystals", disable=not progress)


def relax_with(
    potential: Potential, parameters: Any, structures: Iterable[Structure], limits: Limits
) -> Iterator[tuple[int, Relaxation]]:
    """`relax` with any function of a batch; see there."""
    lanes = [_Lane(potential, parameters, limits, device) for device in _lane_devices()]
    waiting = _Waiting(structures, limits)
    running: dict[concurrent.futures.Future[Any], _Lane] = {}
    threads = concurrent.futures.ThreadPoolExecutor(len(lanes))
    try:
        while True:
            while lanes and (task := waiting.take(len(lanes))):
                lane = lanes.pop()
                running[threads.submit(lane.run, *task)] = lane
            # While the lanes run, as the caller may take some time over each.
            yield from waiting.finished()
            if not running:
                return
            done, _ = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                lanes.append(running.pop(future))
                waiting.put(future.result())
    finally:
        # When a signal ends the command, what is done is exported without waiting for these rounds.
        threads.shutdown(wait=False, cancel_futures=True)


def _lane_devices() -> list[Device]:
    """The device of each lane; two lanes for an accelerator, which else waits for the host."""
    devices = jax.local_devices()
    return devices if jax.default_backend() == "cpu" else devices * 2


class _Lane:
    """Runs rounds on one device."""

    def __init__(self, potential: Potential, parameters: Any, limits: Limits, device: Device):
        self._run = rounds.compiled(potential)
        self._parameters = jax.device_put(parameters, device)
        self._limits = limits
        self._device = device

    def run(
        self, descents: list[Descent], capacity: Capacity
    ) -> list[tuple[int, Descent | Relaxation]]:
        """What becomes of these crystals in a round."""
        inputs = descent.gather(descents, capacity)
        # Those that have settled are only evaluated.
        evaluations = 1 if descents[0].settled else _STEPS_PER_ROUND
        end = self._run(
            self._parameters, *jax.device_put(inputs, self._device), self._limits, evaluations
        )
        batch, *_ = inputs
        outcomes = descent.after(descents, batch, jax.device_get(end), self._limits.steps)
        return [(before.index, new) for before, new in zip(descents, outcomes, strict=True)]


class _Waiting:
    """Crystals between rounds, and some that are read ahead; the first come are served first."""

    def __init__(self, structures: Iterable[Structure], limits: Limits):
        self._unread = enumerate(structures)
        self._skin = limits.steps > 0
        self._moving: list[Descent] = []
        self._settled: list[Descent] = []
        self._finished: list[tuple[int, Relaxation]] = []
        while len(self._moving) < _FIRST_LOOK and self._read_one():
            pass
        # If there is not a single crystal that can be relaxed, any size will do.
        sizes = [crystal.graph.size for crystal in self._moving] or [packing.LARGEST]
        self._capacities = packing.capacities(sizes)
        self._common = packing.common(sizes, packing.least_rows())

    def put(self, outcomes: list[tuple[int, Descent | Relaxation]]) -> None:
        """Takes crystals back after a round."""
        for index, outcome in outcomes:
            if isinstance(outcome, Relaxation):
                self._finished.append((index, outcome))
            elif outcome.settled:
                self._settled.append(outcome)
            else:
                self._moving.append(outcome)

    def finished(self) -> Iterator[tuple[int, Relaxation]]:
        """Those that have finished since the last call."""
        finished, self._finished = self._finished, []
        yield from finished

    def take(self, num_lanes: int) -> tuple[list[Descent], Capacity] | None:
        """The next batch, for one of these free lanes, and its capacity; None if nothing waits."""
        # Enough for these lanes, and two more batches to choose from.
        enough = (num_lanes + 2) * packing.rows(self._capacities[self._common])
        while self._rows(self._moving) < enough and self._read_one():
            pass
        # A batch of those that have settled is evaluated once, and takes less time.
        few = max(self._common - 1, 0)
        settled = self._rows(self._settled)
        if settled > packing.rows(self._capacities[few]) or (settled and not self._moving):
            return self._take(self._settled, few, 1)
        return self._take(self._moving, self._common, num_lanes) if self._moving else None

    def _take(
        self, waiting: list[Descent], common: int, num_lanes: int
    ) -> tuple[list[Descent], Capacity]:
        sizes = [crystal.graph.size for crystal in waiting]
        chosen, capacity = packing.choose(sizes, self._capacities, common, num_lanes)
        taken = [waiting[index] for index in chosen]
        for index in sorted(chosen, reverse=True):
            del waiting[index]
        return taken, capacity

    def _read_one(self) -> bool:
        """Reads a crystal; False if there is none left."""
        for index, structure in self._unread:
            self.put([(index, descent.begin(index, structure, self._skin))])
            return True
        return False

    @staticmethod
    def _rows(waiting: list[Descent]) -> int:
        return sum(packing.rows(crystal.graph.size) for crystal in waiting)
