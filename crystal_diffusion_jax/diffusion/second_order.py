"""Second-order reverse steps at one network call each: SDE-DPM-Solver++(2M), and its D3PM analogue.

Not in the paper. Let x_0 be the expected clean value given the noisy one and h = lambda_s -
lambda_t the gain in lambda = log(signal / noise). The reverse process from t to s has the exact
solution

    x_s = (sigma_s / sigma_t) e^-h x_t + noise
          + 2 alpha_s * integral of e^(-2 (lambda_s - l)) x_0(l) over l from lambda_t to lambda_s,

and the ancestral step is this with x_0 frozen at its present value: first order. With the line
through the present and the previous x_0 instead, to second order,

    x_0  ->  x_0 + h / (2 h_previous) (x_0 - previous x_0),

and nothing else changes. So a step is: extrapolate the prediction, then the ancestral step.
This corrects the spread. x_0 is a martingale of the reverse process, so freezing it leaves its mean
right but drops its variance: on normal data S ancestral steps lose the share
log(sigma_T / sigma_1) / S of the coordinates' variance, second-order steps O(1 / S^2).

Lattice: alpha = sqrt(ab), sigma = sqrt(1 - ab). Coordinates: alpha = 1 and x_0 = F + sigma^2 score
(Tweedie), a point of the torus; only displacements from the present coordinates enter, which are
unique, and the distance moved since the previous time is the step itself before wrapping.

Species: a longer step is exact for each atom alone, but draws all atoms as if they were
independent. What is dropped is again the covariance of the expected clean value, here of the
probabilities, and the same extrapolation of these, cut off at 0, corrects it: the error of the
probability of a pair falls as 1 / S^2 instead of 1 / S.

Reference: Lu et al., DPM-Solver++, arXiv:2211.01095, algorithm 2 in its variant for the SDE.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Key

from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion import joint
from crystal_diffusion_jax.diffusion.joint import Prediction
from crystal_diffusion_jax.diffusion.schedules import NoiseSchedule, per_crystal


@flax.struct.dataclass
class CleanEstimate:
    """The expected clean crystal, as seen from one time of the reverse process.

    Attributes:
      t: that time; 0 for no estimate.
      lattice: expected clean lattice, in units of its scale.
      displacement: from the present coordinates to the expected clean ones, not wrapped.
      species: predicted probabilities of the clean species.
    """

    t: Int[Array, " crystals"]
    lattice: Float[Array, "crystals 3 3"]
    displacement: Float[Array, "crystals atoms 3"]
    species: Float[Array, "crystals atoms species"]


def no_estimate(crystals: Crystals, num_species: int) -> CleanEstimate:
    """The `previous` of the first step, which makes it an ancestral one."""
    return CleanEstimate(
        t=jnp.zeros(len(crystals.lattice), jnp.int32),
        lattice=jnp.zeros_like(crystals.lattice),
        displacement=jnp.zeros_like(crystals.frac_coords),
        species=jnp.zeros((*crystals.species.shape, num_species)),
    )


def estimate(
    crystals: Crystals, prediction: Prediction, t: Int[Array, " crystals"], schedule: NoiseSchedule
) -> CleanEstimate:
    """The expected clean crystal according to a prediction for `crystals` at time t."""
    signal = jnp.sqrt(per_crystal(schedule.alpha_bar, t, 3))
    noise = jnp.sqrt(per_crystal(schedule.one_minus_alpha_bar, t, 3))
    variance = jnp.square(per_crystal(schedule.sigma, t, 3))
    return CleanEstimate(
        t=t,
        lattice=(crystals.lattice - noise * prediction.lattice_eps) / signal,
        displacement=variance / per_crystal(schedule.score_scale, t, 3) * prediction.scaled_score,
        species=jax.nn.softmax(prediction.species_logits, axis=-1),
    )


def moved(previous: CleanEstimate, move: Float[Array, "crystals atoms 3"]) -> CleanEstimate:
    """The same estimate after the present coordinates moved by `move`, not wrapped."""
    return dataclasses.replace(previous, displacement=previous.displacement - move)


def extrapolate(
    prediction: Prediction,
    present: CleanEstimate,
    previous: CleanEstimate,
    s: Int[Array, " crystals"],
    schedule: NoiseSchedule,
) -> Prediction:
    """The prediction with which an ancestral step to s is of second order.

    Args:
      prediction: the denoiser's output at the present time.
      present: the `estimate` according to it.
      previous: the estimate of the step before.
      s: time to go to; at s = 0, where h is infinite, nothing is extrapolated.
    """
    t = present.t
    weigh = (s > 0) & (previous.t > 0)
    earlier = jnp.where(weigh, previous.t, t + 1)  # any time that gives finite numbers
    later = jnp.where(weigh, s, t)

    def weight(log_ratio: Float[Array, " times"]) -> Float[Array, "crystals 1 1"]:
        """h / (2 h_previous) for a table of lambda."""
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
    keys: Key[Array, " crystals"],
    crystals: Crystals,
    prediction: Prediction,
    previous: CleanEstimate,
    t: Int[Array, " crystals"],
    s: Int[Array, " crystals"],
    schedule: NoiseSchedule,
) -> tuple[Crystals, CleanEstimate]:
    """From t to an earlier s like `joint.predictor_step`; also returns the next `previous`.

    Args:
      keys: one PRNG key per crystal.
      crystals: batch at time t.
      prediction: the denoiser's output for it.
      previous: what the last step returned, at first `no_estimate`.
    """
    present = estimate(crystals, prediction, t, schedule)
    prediction = extrapolate(prediction, present, previous, s, schedule)
    stepped = joint.predictor_step(keys, crystals, prediction, t, s, schedule)
    return stepped, moved(present, stepped.frac_coords - crystals.frac_coords)
