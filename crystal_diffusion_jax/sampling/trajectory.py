"""Records every K-th state of the reverse process.

The scan over steps becomes a scan over segments of K steps, each a loop over the same steps: only
the states between segments are held, and the crystals are the same up to rounding.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.sampling.chain import State, Step
from crystal_diffusion_jax.sampling.sampler import Process

# Lines of atoms in all trajectories of a request, about 60 bytes each.
MAX_ATOM_LINES = 10_000_000


def saved_steps(num_steps: int, every: int) -> np.ndarray:
    """Numbers of steps after which a state is kept: 0, K, 2K, ..., S; [F] int32.

    Args:
      num_steps: S, at least 1.
      every: K, at least 1; any K beyond S keeps the first and the last state.
    """
    return np.append(np.arange(0, num_steps, every, dtype=np.int32), np.int32(num_steps))


# Cached, so that `make_sampler` finds its program again.
@functools.cache
def recording(every: int) -> Process:
    """Like `chain.last_state`, with all kept states instead of only the last.

    Args:
      every: K, see `saved_steps`.

    Returns:
      A process whose Crystals have an axis of F states after that of the B crystals, from noise to
      the crystals that `last_state` returns: lattice is [B, F, 3, 3].
    """

    def process(init: State, step: Step, times: Array) -> Crystals:
        def one_step(index: Array, state: State) -> State:
            return step(state, (times[index], times[index + 1]))[0]

        def segment(state: State, steps: tuple[Array, Array]) -> tuple[State, Crystals]:
            state = jax.lax.fori_loop(*steps, one_step, state)
            return state, state[0]

        ends = jnp.asarray(saved_steps(len(times) - 1, every))
        _, later = jax.lax.scan(segment, init, (ends[:-1], ends[1:]))

        def joined(first: Array, rest: Array) -> Array:
            return jnp.moveaxis(jnp.concatenate([first[None], rest]), 0, 1)

        return jax.tree.map(joined, init[0], later)

    return process


def check_size(every: int, steps: Sequence[int], num_atoms: np.ndarray) -> None:
    """Refuses trajectories that would fill memory or disk.

    Args:
      every: K.
      steps: S of each chain that a crystal goes through.
      num_atoms: [num] of each crystal.

    Raises:
      UserError: K is below 1, or they hold more than MAX_ATOM_LINES lines of atoms.
    """
    if every < 1:
        raise UserError(f"--trajectory={every} must be at least 1: every K-th step is kept")
    frames = sum(len(saved_steps(num_steps, every)) for num_steps in steps)
    atoms = int(np.sum(num_atoms, dtype=np.int64))
    if frames * atoms > MAX_ATOM_LINES:
        raise UserError(
            f"--trajectory={every} would keep {frames} states of {len(num_atoms)} crystals with "
            f"{atoms} atoms, more than {MAX_ATOM_LINES:,} lines: choose a larger --trajectory or "
            "a smaller --num"
        )
