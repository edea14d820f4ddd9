"""The reverse process from noise to crystals, shared by the tests of the sampler."""

from typing import Any

from jax import Array

from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion.joint import Denoise
from crystal_diffusion_jax.sampling.chain import last_state, reverse_chain


def reverse_process(
    denoise: Denoise,
    keys: Array,
    mask: Array,
    num_species: int,
    times: Array,
    *arguments: Any,
    **options: Any,
) -> Crystals:
    """The last state of `reverse_chain`, which takes all but the times."""
    init, step = reverse_chain(denoise, keys, mask, num_species, *arguments, **options)
    return last_state(init, step, times)
