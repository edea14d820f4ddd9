"""The reverse process as one scan over steps."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from crystal_diffusion_jax.config import ANCESTRAL, SECOND_ORDER, Solver
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion import joint, second_order
from crystal_diffusion_jax.diffusion.joint import Denoise
from crystal_diffusion_jax.diffusion.schedules import NoiseSchedule
from crystal_diffusion_jax.sampling import averaging, renoising

# The current crystals, and the estimate carried along by the second-order solver.
State = tuple[Crystals, second_order.CleanEstimate | None]
# (state, (its time, the next time)) -> (the next state, None), for jax.lax.scan
Step = Callable[[State, tuple[Array, Array]], tuple[State, None]]


def reverse_chain(
    denoise: Denoise,
    keys: Array,
    mask: Array,
    num_species: int,
    corrector_step_size: float | Array,
    schedule: NoiseSchedule,
    solver: Solver = ANCESTRAL,
    use_corrector: bool = True,
    renoising_steps: int = 0,
    averaging_rounds: int = 0,
    given: Crystals | None = None,
    start: int | Array | None = None,
) -> tuple[State, Step]:
    """Pure noise, and the step that turns it into crystals; scan over it under jax.jit.

    Each crystal's noise depends on its own key alone, not on its batch.

    Args:
      denoise: (crystals, t [B]) -> Prediction; called once per step, once more for the corrector
        and for each renoising step, and `averaging.CALLS` times for each round of averaging.
      keys: [B] PRNG keys.
      mask: [B, N] real atoms.
      num_species: K.
      corrector_step_size: step size of the corrector at t = 1.
      schedule: noise schedule of the forward process.
      solver: as the arguments below, see `sampler.make_sampler`.
      given: crystals whose species all states have; None for species that are sampled, too.
      start: time at which the chain begins with `given` itself, noised up to it; None to begin with
        pure noise.

    Returns:
      The first state, with the lattice in units of its scale, and the step.
    """
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))

    def step(state: State, interval: tuple[Array, Array]) -> tuple[State, None]:
        crystals, previous = state
        t = jnp.full(mask.shape[:1], interval[0])
        s = jnp.full(mask.shape[:1], interval[1])
        here = fold(keys, interval[0])
        if use_corrector:
            corrected = joint.corrector_step(
                fold(here, 0), crystals, denoise(crystals, t), t, corrector_step_size, schedule
            )
            if previous is not None:
                move = corrected.frac_coords - crystals.frac_coords
                previous = second_order.moved(previous, move)
            crystals = joint.wrapped(corrected)
        if renoising_steps:
            crystals, previous = renoising.renoise(
                denoise, fold(here, 2), crystals, previous, t, renoising_steps, schedule
            )
        prediction = denoise(crystals, t)
        if previous is None:
            crystals = joint.predictor_step(fold(here, 1), crystals, prediction, t, s, schedule)
        else:
            crystals, previous = second_order.step(
                fold(here, 1), crystals, prediction, previous, t, s, schedule
            )
        crystals = joint.wrapped(with_given_species(crystals))
        if averaging_rounds:
            rounds = jnp.where(interval[1] == 0, averaging_rounds, 0)
            crystals = joint.wrapped(
                averaging.averaged(denoise, fold(here, 3), crystals, rounds, schedule)
            )
        return (crystals, previous), None

    def with_given_species(crystals: Crystals) -> Crystals:
        return crystals if given is None else dataclasses.replace(crystals, species=given.species)

    # t runs from T to 1, so that 0 is free for the first state's keys.
    if given is not None and start is not None:
        init = joint.renoised(fold(keys, 0), given, jnp.full(mask.shape[:1], start), schedule)
    else:
        init = with_given_species(joint.prior(fold(keys, 0), mask, num_species))
    previous = second_order.no_estimate(init, num_species) if solver == SECOND_ORDER else None
    return (init, previous), step


def last_state(init: State, step: Step, times: Array) -> Crystals:
    """The crystals at the end of the chain.

    Args:
      init: from `reverse_chain`.
      step: from `reverse_chain`.
      times: [S + 1] decreasing to 0, see `schedules.sampling_times`.
    """
    (crystals, _), _ = jax.lax.scan(step, init, (times[:-1], times[1:]))
    return crystals
