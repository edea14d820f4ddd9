"""Renoising of the coordinates at the times that decide on the structure.

While the noise of the coordinates is about as wide as the distance between atoms, the reverse
process chooses between structures, and the errors of its steps add up to a wrong one. At these
times, steps that replace a large share of the noise bring the coordinates back to what the network
considers likely. Earlier, nothing is decided yet; later, such steps would only do harm.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crystal_diffusion_jax.config import NoiseConfig
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion import joint, second_order
from crystal_diffusion_jax.diffusion.joint import Denoise
from crystal_diffusion_jax.diffusion.schedules import NoiseSchedule, geometric_sigma

# Bounds of sigma, in cell vectors, between which coordinates are renoised (t = 302 to 699 by
# default), and the share of the noise's variance that one step replaces (docs/appendix/recipes.md).
_LOWEST_SIGMA, _HIGHEST_SIGMA = 0.02, 0.125
_SHARE = 0.4


def num_renoised(times: np.ndarray, noise: NoiseConfig) -> int:
    """Number of these times at which coordinates are renoised."""
    sigma = geometric_sigma(noise.num_steps, noise.frac_sigma_min, noise.frac_sigma_max)
    return int(np.sum(_is_renoised(sigma.astype(np.float32)[times])))


def renoise(
    denoise: Denoise,
    keys: Array,
    crystals: Crystals,
    previous: second_order.CleanEstimate | None,
    t: Array,
    num_steps: int,
    schedule: NoiseSchedule,
) -> tuple[Crystals, second_order.CleanEstimate | None]:
    """The crystals after `num_steps` steps at time t if t is a time to renoise, else unchanged.

    Args:
      denoise: (crystals, t [B]) -> Prediction; called once per step.
      keys: [B] one PRNG key per crystal.
      crystals: batch at time t.
      previous: estimate carried along by the second-order solver, None for the ancestral one.
      t: [B] int, the same time for all.
      num_steps: at least 1.
      schedule: noise schedule of the forward process.

    Returns:
      The batch, wrapped, and `previous` relative to the new positions.
    """

    def one(
        index: Array, state: tuple[Crystals, second_order.CleanEstimate | None]
    ) -> tuple[Crystals, second_order.CleanEstimate | None]:
        crystals, previous = state
        here = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)
        renoised = joint.renoising_step(here, crystals, denoise(crystals, t), t, _SHARE, schedule)
        if previous is not None:
            move = renoised.frac_coords - crystals.frac_coords
            previous = second_order.moved(previous, move)
        return joint.wrapped(renoised), previous

    steps = jnp.where(_is_renoised(schedule.sigma[t[0]]), num_steps, 0)
    return jax.lax.fori_loop(0, steps, one, (crystals, previous))


def _is_renoised(sigma: Any) -> Any:
    return (sigma >= _LOWEST_SIGMA) & (sigma <= _HIGHEST_SIGMA)
