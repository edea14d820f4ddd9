"""Second-order reverse steps at one network call each: SDE-DPM-Solver++(2M), and its D3PM analogue.

Let x_0 be the expected clean value given the noisy one and h = lambda_s - lambda_t the gain in
lambda = log(signal / noise). The reverse process from t to s has the exact solution

    x_s = (sigma_s / sigma_t) e^-h x_t + noise
          + 2 alpha_s * integral of e^(-2 (lambda_s - l)) x_0(l) over l from lambda_t to lambda_s,

and the ancestral step is this with x_0 frozen at its present value: first order. With the line
through the present and the previous x_0 instead, to second order,

    x_0  ->  x_0 + h / (2 h_previous) (x_0 - previous x_0),

and nothing else changes. So a step is: extrapolate the prediction, then the ancestral step.
What it mends is the spread. x_0 is a martingale of the reverse process, hence freezing it leaves
its mean right but drops its variance: on normal data S ancestral steps lose the share
log(sigma_T / sigma_1) / S of the coordinates' variance, second-order steps O(1 / S^2).

Lattice: alpha = sqrt(ab), sigma = sqrt(1 - ab). Coordinates: alpha = 1 and x_0 = F + sigma^2 score
(Tweedie), a point of the torus; only displacements from the present coordinates enter, which are
unique, and the distance gone since the previous time is the step itself before wrapping.

Species: their strided posterior is exact for each atom alone, but draws all atoms as if they were
independent. What is dropped is again the covariance of the expected clean value, here of the
probabilities, and the same extrapolation of these, cut off at 0, mends it: the error of the
probability of a pair falls as 1 / S^2 instead of 1 / S.

Reference: Lu et al., DPM-Solver++, arXiv:2211.01095, algorithm 2 in its variant for the SDE.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion import joint
from crystal_diffusion_jax.diffusion.joint import Prediction
from crystal_diffusion_jax.diffusion.schedules import NoiseSchedule, per_crystal


@flax.struct.dataclass
class Estimate:
    """The clean crystal as expected at the previous time.

    Attributes:
      t: [B] int, that time; 0 where there was none yet.
      lattice: [B, 3, 3] expected clean lattice, in units of its scale.
      displacement: [B, N, 3] from the present coordinates to the expected clean ones, not wrapped.
      species: [B, N, K] predicted probabilities of the clean species.
    """

    t: Array
    lattice: Array
    displacement: Array
    species: Array


def no_estimate(crystals: Crystals, num_species: int) -> Estimate:
    """What the first step, which is an ancestral one, has to go on; K is `num_species`."""
    return Estimate(
        t=jnp.zeros(len(crystals.lattice), jnp.int32),
        lattice=jnp.zeros_like(crystals.lattice),
        displacement=jnp.zeros_like(crystals.frac_coords),
        species=jnp.zeros((*crystals.species.shape, num_species)),
    )


def estimate(
    crystals: Crystals, prediction: Prediction, t: Array, schedule: NoiseSchedule
) -> Estimate:
    """The clean crystal that a prediction at time t amounts to.

    Args:
      crystals: batch at time t.
      prediction: the denoiser's output for it.
      t: [B] int.
      schedule: the tables.
    """
    signal = jnp.sqrt(per_crystal(schedule.alpha_bar, t, 3))
    noise = jnp.sqrt(per_crystal(schedule.one_minus_alpha_bar, t, 3))
    variance = jnp.square(per_crystal(schedule.sigma, t, 3))
    return Estimate(
        t=t,
        lattice=(crystals.lattice - noise * prediction.lattice_eps) / signal,
        displacement=variance / per_crystal(schedule.score_scale, t, 3) * prediction.scaled_score,
        species=jax.nn.softmax(prediction.species_logits, axis=-1),
    )


def seen_after(previous: Estimate, move: Array) -> Estimate:
    """The same estimate after the coordinates moved by `move`, [B, N, 3], not wrapped."""
    return dataclasses.replace(previous, displacement=previous.displacement - move)


def extrapolate(
    prediction: Prediction,
    present: Estimate,
    previous: Estimate,
    s: Array,
    schedule: NoiseSchedule,
) -> Prediction:
    """The prediction that stands for the whole way to s.

    Args:
      prediction: the denoiser's output at the present time.
      present: the `estimate` that it amounts to.
      previous: that of the step before.
      s: [B] int, the time to go to; at s = 0, where h is infinite, nothing is extrapolated.
      schedule: the tables.
    """
    t = present.t
    weigh = (s > 0) & (previous.t > 0)
    earlier = jnp.where(weigh, previous.t, t + 1)  # any time that gives finite numbers
    later = jnp.where(weigh, s, t)

    def weight(log_ratio: Array) -> Array:
        """h / (2 h_previous) [B, 1, 1] for a table of lambda."""
        gain = log_ratio[later] - log_ratio[t]
        previous_gain = log_ratio[t] - log_ratio[earlier]
        return jnp.where(weigh, 0.5 * gain / previous_gain, 0.0)[:, None, None]

    log_noise = jnp.log(schedule.one_minus_alpha_bar)
    # Lattice and species share alpha_bar.
    weight_of_alpha_bar = weight(0.5 * (schedule.log_alpha_bar - log_noise))
    frac_weight = weight(-jnp.log(schedule.sigma))
    signal_to_noise = jnp.sqrt(
        per_crystal(schedule.alpha_bar, t, 3) / per_crystal(schedule.one_minus_alpha_bar, t, 3)
    )
    to_scaled_score = per_crystal(schedule.score_scale, t, 3) / jnp.square(
        per_crystal(schedule.sigma, t, 3)
    )
    probs = present.species + weight_of_alpha_bar * (present.species - previous.species)
    return dataclasses.replace(
        prediction,
        lattice_eps=prediction.lattice_eps
        - signal_to_noise * weight_of_alpha_bar * (present.lattice - previous.lattice),
        scaled_score=prediction.scaled_score
        + to_scaled_score * frac_weight * (present.displacement - previous.displacement),
        species_logits=jnp.log(jnp.maximum(probs, 0.0)),
    )


def step(
    keys: Array,
    crystals: Crystals,
    prediction: Prediction,
    previous: Estimate,
    t: Array,
    s: Array,
    schedule: NoiseSchedule,
) -> tuple[Crystals, Estimate]:
    """From t to an earlier s as `joint.predictor_step`, and the estimate for the next step.

    Args:
      keys: [B] one PRNG key per crystal.
      crystals: batch at time t.
      prediction: the denoiser's output for it.
      previous: what the last step handed on, at first `no_estimate`.
      t: [B] int, the present time.
      s: [B] int, the earlier time; 0 gives clean crystals.
      schedule: the tables.
    """
    present = estimate(crystals, prediction, t, schedule)
    prediction = extrapolate(prediction, present, previous, s, schedule)
    moved = joint.predictor_step(keys, crystals, prediction, t, s, schedule)
    return moved, seen_after(present, moved.frac_coords - crystals.frac_coords)
