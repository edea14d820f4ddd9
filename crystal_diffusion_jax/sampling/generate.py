"""Generates the crystals of one request, batch by batch."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from crystal_diffusion_jax.data.buckets import bucket_sizes
from crystal_diffusion_jax.diffusion.schedules import sampling_times
from crystal_diffusion_jax.request import SampleSettings, draw_values
from crystal_diffusion_jax.runtime import devices
from crystal_diffusion_jax.runtime.progress import duration
from crystal_diffusion_jax.sampling import trajectory_files
from crystal_diffusion_jax.sampling.chain import last_state
from crystal_diffusion_jax.sampling.renoising import num_relaxed
from crystal_diffusion_jax.sampling.request import condition_arrays, draw_num_atoms
from crystal_diffusion_jax.sampling.sampler import make_sampler
from crystal_diffusion_jax.sampling.trajectory import recording, saved_steps
from crystal_diffusion_jax.structures.compositions import common_oxidation_states
from crystal_diffusion_jax.trained_model import TrainedModel


class Sink(Protocol):
    """Where crystals go: `record.SampleFolder` or `memory.Memory`."""

    def remaining(self) -> list[int]:
        """Indices that are neither written nor rejected, ascending."""

    def counts(self) -> dict[str, Any]:
        """Numbers of crystals, "written" and "rejected" among them."""

    def add(
        self,
        indices: Sequence[int],
        lattices: Sequence[np.ndarray],
        frac_coords: Sequence[np.ndarray],
        atomic_numbers: Sequence[np.ndarray],
        wall_seconds: float,
        network_calls: int,
        trajectories: Mapping[int, str] | None = None,
    ) -> None:
        """Takes one batch of crystals and, by index, the files of their trajectories."""


def generate(
    model: TrainedModel,
    settings: SampleSettings,
    allowed: np.ndarray,
    sink: Sink,
    batch_size: int,
    say: Callable[[str], None] = print,
    trajectory: int | None = None,
) -> None:
    """Samples whatever the sink does not hold yet.

    The noise of crystal i follows from (seed, i) alone, and a resumed request computes in the same
    batch shapes, so it ends with the same crystals. Another batch size rounds differently, which
    can grow along the chain into another crystal.

    Args:
      model: the trained model.
      settings: the request.
      allowed: [K] species that may appear.
      sink: takes the crystals, and knows which are missing.
      batch_size: most crystals per call of the sampler.
      say: takes the progress lines.
      trajectory: keep every so many steps of each crystal in a file of its own, None for no file;
        the crystals do not depend on it.

    Raises:
      UserError: numbers of atoms that the model does not know.
    """
    statistics = model.statistics
    values = draw_values(settings.target, settings.num, settings.seed)
    num_atoms = draw_num_atoms(values, settings.num, settings.seed, settings.num_atoms, statistics)
    use_guidance = settings.guidance != 0
    mesh = devices.data_mesh()
    sample = make_sampler(
        model.denoiser,
        model.config.noise,
        settings.num_steps,
        use_guidance,
        mesh,
        settings.solver,
        settings.use_corrector,
        settings.renoising_steps,
        common_oxidation_states(statistics.vocabulary) if settings.charge_balance else None,
        last_state if trajectory is None else recording(trajectory),
    )
    times = sampling_times(model.config.noise.num_steps, settings.num_steps)
    network_calls = settings.num_steps * (2 if settings.use_corrector else 1)
    if settings.renoising_steps:
        relaxed = num_relaxed(times[:-1], model.config.noise)
        network_calls += relaxed * settings.renoising_steps
    key = jax.random.key(settings.seed)
    remaining = np.array(sink.remaining(), dtype=np.int64)
    begin, todo = time.monotonic(), len(remaining)
    if trajectory is not None and todo < settings.num:
        say(f"{settings.num - todo} crystals were there before and get no new trajectory")
    if todo:
        say("the first batch of each size compiles the sampler or loads it, up to a minute")
    for rows, size, shape in _batches(remaining, num_atoms, batch_size):
        start = time.monotonic()
        count = len(rows)
        # A batch that is not full is filled up, so that it compiles nothing new and the devices
        # can share it.
        shared = -(-shape // mesh.size) * mesh.size
        filled = np.concatenate([rows, np.full(shared - count, rows[0])])
        # [rows, states, ...]; the last state is the crystal.
        states = sample(
            model.params,
            jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.asarray(filled)),
            jnp.asarray(np.arange(size) < num_atoms[filled][:, None]),
            condition_arrays(
                {name: asked[filled] for name, asked in values.items()}, statistics, len(filled)
            ),
            jnp.float32(settings.guidance),
            jnp.float32(settings.corrector_step_size),
            jnp.asarray(allowed),
        )
        if trajectory is None:
            states = jax.tree.map(lambda leaf: leaf[:, None], states)
        lattice, frac_coords, species = (
            np.asarray(array)[:count]
            for array in (states.lattice, states.frac_coords, states.species)
        )
        unit = statistics.lattice_unit(num_atoms[rows])
        lattice = lattice * unit[:, None, None, None]
        atomic_numbers = np.array(statistics.vocabulary)[species]
        seconds = time.monotonic() - start
        texts = {}
        if trajectory is not None:
            for row, (index, n) in enumerate(zip(rows.tolist(), num_atoms[rows], strict=True)):
                texts[index] = trajectory_files.to_text(
                    times[saved_steps(settings.num_steps, trajectory)],
                    lattice[row],
                    frac_coords[row, :, :n],
                    atomic_numbers[row, :, :n],
                )
        sink.add(
            rows.tolist(),
            list(lattice[:, -1]),
            [coords[-1, :n] for coords, n in zip(frac_coords, num_atoms[rows], strict=True)],
            [numbers[-1, :n] for numbers, n in zip(atomic_numbers, num_atoms[rows], strict=True)],
            wall_seconds=seconds,
            network_calls=network_calls,
            trajectories=texts,
        )
        counts = sink.counts()
        left = settings.num - counts["written"] - counts["rejected"]
        rate = (todo - left) / (time.monotonic() - begin)
        say(
            f"{settings.num - left}/{settings.num} crystals: {counts['written']} written, "
            f"{counts['rejected']} rejected, {rate:.2f} crystals/s, {duration(left / rate)} left"
        )


def _batches(
    remaining: np.ndarray, num_atoms: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, int, int]]:
    """Indices of each batch, atoms it is padded to, crystals it is filled up to."""
    # Both shapes come from the whole request, so that a resumed one computes the same numbers.
    sizes = bucket_sizes(num_atoms)
    bucket = np.searchsorted(sizes, num_atoms)
    for index, size in enumerate(sizes):
        rows = remaining[bucket[remaining] == index]
        # As even as they can be: what a last small batch is filled up with would be thrown away.
        count = int(np.sum(bucket == index))
        shape = math.ceil(count / math.ceil(count / batch_size))
        for start in range(0, len(rows), shape):
            yield rows[start : start + shape], size, shape
