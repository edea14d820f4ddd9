"""The reverse process from noise to crystals, shared by the tests of the sampler."""

from jax import Array

from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion.joint import Denoise
from crystal_diffusion_jax.diffusion.schedules import NoiseSchedule
from crystal_diffusion_jax.sampling.chain import last_state, reverse_chain
from crystal_diffusion_jax.sampling.settings import ANCESTRAL, Solver


def reverse_process(
    denoise: Denoise,
    keys: Array,
    mask: Array,
    num_species: int,
    times: Array,
    gamma: float | Array,
    schedule: NoiseSchedule,
    solver: Solver = ANCESTRAL,
    use_corrector: bool = True,
    relaxation_steps: int = 0,
) -> Crystals:
    init, step = reverse_chain(
        denoise,
        keys,
        mask,
        num_species,
        gamma,
        schedule,
        solver,
        use_corrector,
        relaxation_steps,
    )
    return last_state(init, step, times)
