"""The reverse process as one scan over steps, with optional guidance."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from crystal_diffusion_jax import denoising, parallel
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.denoising import ConditionalDenoise
from crystal_diffusion_jax.diffusion import joint, second_order
from crystal_diffusion_jax.diffusion.joint import Denoise, Prediction
from crystal_diffusion_jax.diffusion.schedules import (
    NoiseConfig,
    NoiseSchedule,
    noise_schedule,
    sampling_times,
)
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.models.embeddings import Condition
from crystal_diffusion_jax.sampling import relaxation
from crystal_diffusion_jax.sampling.settings import ANCESTRAL, SECOND_ORDER, Solver


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """Defaults that belong to a data set.

    Attributes:
      gamma: Langevin step of the corrector at t = 1, in squared fractional units.
      relaxation_steps: at each of the times that decide on the structure, instead of the
        corrector at all times, see `sampling.relaxation`; 0 for the paper's corrector.
    """

    gamma: float = 1e-6
    relaxation_steps: int = 0

    def __post_init__(self) -> None:
        """Rejects a negative step."""
        for field in ("gamma", "relaxation_steps"):
            if not getattr(self, field) >= 0:
                raise ValueError(f"{field} must be at least 0, not {getattr(self, field)}")


# The present crystals, and the estimate that the second-order solver carries along.
State = tuple[Crystals, second_order.Estimate | None]
# (state, its time and the next one) -> (the next state, None), for jax.lax.scan
Step = Callable[[State, tuple[Array, Array]], tuple[State, None]]


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
    """From pure noise to crystals, step by step.

    Each crystal's noise comes from its own key alone, so it does not depend on its batch. Call it
    under jax.jit.

    Args:
      denoise: (crystals, t [B]) -> Prediction; called once a step, and for the corrector and each
        relaxation step besides.
      keys: [B] PRNG keys.
      mask: [B, N] real atoms.
      num_species: K.
      times: [S + 1] decreasing to 0, see `sampling_times`.
      gamma: step of the corrector at t = 1.
      schedule: the tables.
      solver: of the predictor, see `settings.SOLVERS`.
      use_corrector: begin each step with a corrector step; without it `gamma` is ignored.
      relaxation_steps: that precede the predictor, see `relaxation.relax`; 0 does without.

    Returns:
      Crystals with the lattice in units of its scale.
    """
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
    (crystals, _), _ = jax.lax.scan(step, init, (times[:-1], times[1:]))
    return crystals


def reverse_chain(
    denoise: Denoise,
    keys: Array,
    mask: Array,
    num_species: int,
    gamma: float | Array,
    schedule: NoiseSchedule,
    solver: Solver,
    use_corrector: bool,
    relaxation_steps: int,
) -> tuple[State, Step]:
    """Pure noise, and the step to scan over; arguments are those of `reverse_process`."""
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))

    def step(state: State, interval: tuple[Array, Array]) -> tuple[State, None]:
        crystals, previous = state
        t = jnp.full(mask.shape[:1], interval[0])
        s = jnp.full(mask.shape[:1], interval[1])
        here = fold(keys, interval[0])
        if use_corrector:
            corrected = joint.corrector_step(
                fold(here, 0), crystals, denoise(crystals, t), t, gamma, schedule
            )
            if previous is not None:
                move = corrected.frac_coords - crystals.frac_coords
                previous = second_order.seen_after(previous, move)
            crystals = joint.wrapped(corrected)
        if relaxation_steps:
            crystals, previous = relaxation.relax(
                denoise, fold(here, 2), crystals, previous, t, relaxation_steps, schedule
            )
        prediction, here = denoise(crystals, t), fold(here, 1)
        if previous is None:
            crystals = joint.predictor_step(here, crystals, prediction, t, s, schedule)
        else:
            crystals, previous = second_order.step(
                here, crystals, prediction, previous, t, s, schedule
            )
        return (joint.wrapped(crystals), previous), None

    # t runs from T to 1, so that 0 is free for the prior's keys.
    init = joint.prior(fold(keys, 0), mask, num_species)
    previous = second_order.no_estimate(init, num_species) if solver == SECOND_ORDER else None
    return (init, previous), step


def guided(denoise: ConditionalDenoise, condition: Condition, guidance: float | Array) -> Denoise:
    """Classifier-free guidance: out_cond + w (out_cond - out_null) on every output.

    Both branches run as one batch of 2B. Reference: Ho and Salimans, arXiv:2207.12598, eq. (6).

    Args:
      denoise: the denoiser.
      condition: the request.
      guidance: w; 0 is plain conditional sampling.
    """
    null = Condition(values=condition.values, present=jnp.zeros_like(condition.present))
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts), condition, null)

    def denoise_guided(crystals: Crystals, t: Array) -> Prediction:
        twice = jax.tree.map(lambda part: jnp.concatenate([part, part]), crystals)
        output = denoise(twice, jnp.concatenate([t, t]), both)

        def extrapolate(part: Array) -> Array:
            conditional, unconditional = jnp.split(part, 2)
            return conditional + guidance * (conditional - unconditional)

        return jax.tree.map(extrapolate, output)

    return denoise_guided


def restrict_species(denoise: Denoise, allowed: Array) -> Denoise:
    """Takes species out of the predicted distribution, so that the final crystal has none of them.

    Args:
      denoise: the denoiser.
      allowed: [K] True for species that may appear.
    """

    def denoise_restricted(crystals: Crystals, t: Array) -> Prediction:
        output = denoise(crystals, t)
        logits = jnp.where(allowed, output.species_logits, -jnp.inf)
        return dataclasses.replace(output, species_logits=logits)

    return denoise_restricted


def spoil_undefined_species(denoise: Denoise) -> Denoise:
    """Turns a crystal whose species are not defined into one that is not finite.

    A draw from logits with a NaN or infinity among them is a species like any other: without a
    trace in the numbers, the crystal would be written.

    Args:
      denoise: the denoiser, before `restrict_species`.
    """

    def denoise_spoiled(crystals: Crystals, t: Array) -> Prediction:
        output = denoise(crystals, t)
        defined = jnp.isfinite(output.species_logits) | ~crystals.mask[..., None]
        whole = jnp.all(defined, axis=(-2, -1))[..., None, None]
        return dataclasses.replace(
            output, lattice_eps=jnp.where(whole, output.lattice_eps, jnp.nan)
        )

    return denoise_spoiled


# Takes what `reverse_process` takes, in its order; its results have the crystals as leading axis.
Process = Callable[..., Crystals]

# (params, keys [B], mask [B, N], condition, guidance, gamma, allowed [K]) -> Crystals
Sampler = Callable[[Any, Array, Array, Condition, float | Array, float | Array, Array], Crystals]


# Kept, because a new function would be traced anew by each request of a loop over targets.
@functools.lru_cache(maxsize=8)
def make_sampler(
    denoiser: Denoiser,
    noise_config: NoiseConfig,
    num_steps: int,
    use_guidance: bool,
    mesh: Mesh,
    solver: Solver = ANCESTRAL,
    use_corrector: bool = True,
    relaxation_steps: int = 0,
    process: Process = reverse_process,
) -> Sampler:
    """The jitted sampler, its batch split over the mesh; it compiles once per shape of `mask`.

    Args:
      denoiser: the network.
      noise_config: the forward process that it was trained on.
      num_steps: S, at most T.
      use_guidance: evaluate the unconditional branch too; without it `guidance` is ignored.
      mesh: the devices; their number must divide the batch.
      solver: of the predictor, see `settings.SOLVERS`.
      use_corrector: begin each step with a corrector step; without it `gamma` is ignored.
      relaxation_steps: that precede the predictor, see `relaxation.relax`; 0 does without.
      process: what to return of the reverse process; `trajectory.recording` keeps more of it.

    Raises:
      ValueError: num_steps outside 1..T.
    """
    schedule = noise_schedule(noise_config)
    times = jnp.asarray(sampling_times(noise_config.num_steps, num_steps))

    def sample(
        params: Any,
        keys: Array,
        mask: Array,
        condition: Condition,
        guidance: Array,
        gamma: Array,
        allowed: Array,
    ) -> Crystals:
        def sample_rows(shared: Any, rows: tuple[Array, Array, Condition]) -> Crystals:
            (params, guidance, gamma, allowed), (keys, mask, condition) = shared, rows
            conditional = denoising.bind(denoiser, params)

            def plain(crystals: Crystals, t: Array) -> Prediction:
                return conditional(crystals, t, condition)

            denoise = guided(conditional, condition, guidance) if use_guidance else plain
            denoise = restrict_species(spoil_undefined_species(denoise), allowed)
            return process(
                denoise,
                keys,
                mask,
                denoiser.num_species,
                times,
                gamma,
                schedule,
                solver,
                use_corrector,
                relaxation_steps,
            )

        branches = 2 if use_guidance else 1
        size = branches * mask.shape[1] ** 2 * denoiser.config.pair_width
        crystals: Crystals = parallel.map_rows(sample_rows, size, mesh)(
            (params, guidance, gamma, allowed), (keys, mask, condition)
        )
        return crystals

    return jax.jit(sample)
