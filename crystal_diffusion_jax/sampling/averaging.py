"""Averaged denoising: the last errors of cells and positions, averaged away.

Not in the paper. A finished crystal has the errors that the last steps left, and small strains of
the cell decide on the energies of Carbon-24 (docs/appendix/recipes.md). Noise crystals again
up to an early time, several times, and predict the clean ones: their mean is a crystal whose errors
the network has corrected, without the error of any single prediction.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion import joint, second_order
from crystal_diffusion_jax.diffusion.joint import Denoise
from crystal_diffusion_jax.diffusion.schedules import NoiseSchedule

# Share of the chain's times at which predictions are averaged, and how many of them: t = 4 of 1000.
# With much noise the predicted cells differ in orientation, and their mean is too small.
_TIME = 0.004
CALLS = 16


def averaged(
    denoise: Denoise,
    keys: Array,
    crystals: Crystals,
    rounds: int | Array,
    schedule: NoiseSchedule,
) -> Crystals:
    """The crystals after `rounds` times the mean of predictions; species stay.

    Args:
      denoise: (crystals, t [B]) -> Prediction; called `CALLS` times a round.
      keys: [B] one PRNG key per crystal.
      crystals: clean batch.
      rounds: 0 leaves the crystals as they are.
      schedule: noise schedule of the forward process.

    Returns:
      The batch, coordinates not wrapped.
    """
    time = max(1, round(_TIME * (schedule.sigma.shape[0] - 1)))
    # Not weakly typed like a Python number, for which the network would be traced once more.
    t = jnp.full(crystals.mask.shape[:1], time, jnp.int32)
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))

    def one_round(index: Array, crystals: Crystals) -> Crystals:
        def add(draw: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
            noisy = joint.renoised(fold(keys, index * CALLS + draw), crystals, t, schedule)
            clean = second_order.estimate(noisy, denoise(joint.wrapped(noisy), t), t, schedule)
            moved = noisy.frac_coords - crystals.frac_coords
            moved += clean.displacement - jnp.round(moved)
            return sums[0] + clean.lattice / CALLS, sums[1] + moved / CALLS

        zeros = jnp.zeros_like(crystals.lattice), jnp.zeros_like(crystals.frac_coords)
        lattice, moved = jax.lax.fori_loop(0, CALLS, add, zeros)
        return dataclasses.replace(
            crystals, lattice=lattice, frac_coords=crystals.frac_coords + moved
        )

    return jax.lax.fori_loop(0, rounds, one_round, crystals)
