"""The jitted sampler: network, request and reverse process as one program."""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike

from crystal_diffusion_jax import denoising
from crystal_diffusion_jax.config import ANCESTRAL, NoiseConfig, Solver
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion.joint import Prediction
from crystal_diffusion_jax.diffusion.schedules import noise_schedule, sampling_times
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.models.embeddings import Condition
from crystal_diffusion_jax.runtime import devices, parallel
from crystal_diffusion_jax.sampling import charges
from crystal_diffusion_jax.sampling.chain import State, Step, last_state, reverse_chain
from crystal_diffusion_jax.sampling.guidance import (
    guided,
    mark_undefined_species,
    restrict_species,
)

# (first state, step, times) -> states to keep, with the crystals as leading axis
Process = Callable[[State, Step, Array], Crystals]


class Sampler(Protocol):
    """A jitted sampler."""

    def __call__(
        self,
        params: Any,
        keys: Array,
        mask: ArrayLike,
        condition: Condition,
        guidance: ArrayLike,
        corrector_step_size: ArrayLike,
        allowed: ArrayLike,
        given: Crystals | None = None,
    ) -> Crystals:
        """Samples one batch.

        Args:
          params: weights of the network.
          keys: [B] PRNG keys.
          mask: [B, N] real atoms.
          condition: the request.
          guidance: weight of classifier-free guidance.
          corrector_step_size: that at t = 1.
          allowed: [K] True for species that may appear.
          given: batch with the species that the crystals are to have, and, if the chain starts
            after T, the crystals it starts from, their lattices in units of the lattice scale.

        Returns:
          The crystals, or those states of theirs that `process` keeps.
        """


# Cached: in a loop over targets, jax would trace a new function for each request.
@functools.lru_cache(maxsize=8)
def make_sampler(
    denoiser: Denoiser,
    noise_config: NoiseConfig,
    num_steps: int,
    use_guidance: bool,
    mesh: Mesh,
    solver: Solver = ANCESTRAL,
    use_corrector: bool = True,
    renoising_steps: int = 0,
    averaging_rounds: int = 0,
    oxidation_states: tuple[tuple[int, ...], ...] | None = None,
    start: int = 0,
    process: Process = last_state,
) -> Sampler:
    """The jitted sampler, its batch split over the mesh; compiles once per shape of `mask`.

    Args:
      denoiser: the network.
      noise_config: the forward process it was trained on.
      num_steps: S, at most T.
      use_guidance: also evaluate the unconditional branch; without it `guidance` is ignored.
      mesh: the devices; their number must divide the batch.
      solver: solver of the predictor, see `config.SOLVERS`.
      use_corrector: begin each step with a corrector step; without it `corrector_step_size` is
        ignored.
      renoising_steps: steps before the predictor, see `renoising.renoise`; 0 disables them.
      averaging_rounds: rounds after the last step, see `averaging.averaged`; 0 disables them.
      oxidation_states: [K] oxidation states of each species, for neutral crystals, see `charges`;
        None disables charge balance.
      start: leave out the times above it, and begin with the given crystals, noised; 0 begins with
        pure noise.
      process: which states to return; `trajectory.recording` keeps more than the last.

    Raises:
      ValueError: num_steps outside 1..T.
    """
    schedule = noise_schedule(noise_config)
    times = jax.device_put(sampling_times(noise_config.num_steps, num_steps, start))
    states = None
    if oxidation_states is not None:
        states = charges.oxidation_states(oxidation_states)

    # Traced once for all its calls in a step.
    @jax.jit
    def network(params: Any, crystals: Crystals, t: Array, condition: Condition) -> Prediction:
        return denoising.bind(denoiser, params)(crystals, t, condition)

    def sample(
        params: Any,
        keys: Array,
        mask: Array,
        condition: Condition,
        guidance: Array,
        corrector_step_size: Array,
        allowed: Array,
        given: Crystals | None = None,
    ) -> Crystals:
        def sample_rows(shared: Any, rows: Any) -> Crystals:
            params, guidance, corrector_step_size, allowed = shared
            keys, mask, condition, given = rows
            conditional = functools.partial(network, params)

            def plain(crystals: Crystals, t: Array) -> Prediction:
                return conditional(crystals, t, condition)

            denoise = guided(conditional, condition, guidance) if use_guidance else plain
            denoise = restrict_species(mark_undefined_species(denoise), allowed)
            if states is not None:
                denoise = charges.balanced(denoise, states, schedule)
            init, step = reverse_chain(
                denoise,
                keys,
                mask,
                denoiser.num_species,
                corrector_step_size,
                schedule,
                solver,
                use_corrector,
                renoising_steps,
                averaging_rounds,
                given,
                times[0] if start else None,
            )
            return process(init, step, times)

        branches = 2 if use_guidance else 1
        size = branches * mask.shape[1] ** 2 * denoiser.config.pair_hidden_width
        crystals: Crystals = parallel.map_rows(sample_rows, size, mesh)(
            (params, guidance, corrector_step_size, allowed), (keys, mask, condition, given)
        )
        return crystals

    return jax.jit(sample, compiler_options=devices.compiler_options())
