"""The three diffusions on one batch of crystals, with the lattice in units of its scale.

`prior`, `corrector_step` and `predictor_step` draw from the keys they are given: fold the time and
the role in first, so that no two of them share a key.
"""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
from jax import Array

from crystal_diffusion_jax.crystals import Crystals, wrap
from crystal_diffusion_jax.diffusion import coordinates, lattice, species
from crystal_diffusion_jax.diffusion.schedules import NoiseSchedule


@flax.struct.dataclass
class Prediction:
    """What a denoiser returns, and, but for the logits, what it regresses on.

    Attributes:
      lattice_eps: [B, 3, 3] noise in the lattice.
      scaled_score: [B, N, 3] score of frac_coords times sqrt(lambda_t); 0 on padding.
      species_logits: [B, N, K] distribution of the clean species.
    """

    lattice_eps: Array
    scaled_score: Array
    species_logits: Array


@flax.struct.dataclass
class Targets:
    """Regression targets of a noised batch; the clean species are in the clean batch.

    Attributes:
      lattice_eps: [B, 3, 3] the noise added to the lattice.
      scaled_score: [B, N, 3] true score of frac_coords times sqrt(lambda_t).
    """

    lattice_eps: Array
    scaled_score: Array


# (noisy crystals, t [B]) -> Prediction
Denoise = Callable[[Crystals, Array], Prediction]


def noise(
    key: Array, crystals: Crystals, t: Array, num_species: int, schedule: NoiseSchedule
) -> tuple[Crystals, Targets]:
    """One draw of the forward process at times t.

    Args:
      key: PRNG key.
      crystals: clean batch, lattice in units of its scale.
      t: [B] int in 1..T.
      num_species: K.
      schedule: the tables.
    """
    key_lattice, key_frac, key_keep, key_species = jax.random.split(key, 4)
    lattice_eps = jax.random.normal(key_lattice, crystals.lattice.shape)
    frac_eps = jax.random.normal(key_frac, crystals.frac_coords.shape)
    keep = jax.random.uniform(key_keep, crystals.species.shape)
    resampled = jax.random.randint(key_species, crystals.species.shape, 0, num_species)
    frac_coords = coordinates.noised(crystals.frac_coords, frac_eps, t, schedule)
    noisy = dataclasses.replace(
        crystals,
        lattice=lattice.noised(crystals.lattice, lattice_eps, t, schedule),
        frac_coords=frac_coords,
        species=species.noised(keep, resampled, crystals.species, t, schedule),
    )
    score = coordinates.scaled_score(frac_coords, crystals.frac_coords, t, schedule)
    return noisy, Targets(lattice_eps=lattice_eps, scaled_score=score)


def prior(keys: Array, mask: Array, num_species: int) -> Crystals:
    """Draws x_T: normal lattice, uniform frac_coords, uniform species.

    Args:
      keys: [B] one PRNG key per crystal, so that a crystal does not depend on its batch.
      mask: [B, N] real atoms.
      num_species: K.
    """

    def draw(key: Array) -> tuple[Array, Array]:
        key_frac, key_species = jax.random.split(key)
        frac_coords = jax.random.uniform(key_frac, (mask.shape[1], 3))
        return frac_coords, jax.random.randint(key_species, mask.shape[1:], 0, num_species)

    frac_coords, kinds = jax.vmap(draw)(_fold(keys, 0))
    return Crystals(
        lattice=lattice.prior(_fold(keys, 1)), frac_coords=frac_coords, species=kinds, mask=mask
    )


def corrector_step(
    keys: Array,
    crystals: Crystals,
    prediction: Prediction,
    t: Array,
    corrector_step_size: float | Array,
    schedule: NoiseSchedule,
) -> Crystals:
    """Langevin step of the coordinates at fixed t; lattice and species stay.

    Coordinates go as far as they go, maybe out of the unit cell; see `wrapped`.

    Args:
      keys: [B] one PRNG key per crystal.
      crystals: batch at time t.
      prediction: the denoiser's output for it.
      t: [B] int.
      corrector_step_size: step size at t = 1.
      schedule: the tables.
    """
    normal = _normal(keys, crystals.frac_coords)
    move = coordinates.corrector_move(
        normal, prediction.scaled_score, t, corrector_step_size, schedule
    )
    return dataclasses.replace(crystals, frac_coords=crystals.frac_coords + move)


def renoising_step(
    keys: Array,
    crystals: Crystals,
    prediction: Prediction,
    t: Array,
    share: float,
    schedule: NoiseSchedule,
) -> Crystals:
    """Replaces a share of the coordinates' noise at fixed t; lattice and species stay.

    Args:
      keys: [B] one PRNG key per crystal.
      crystals: batch at time t.
      prediction: the denoiser's output for it.
      t: [B] int.
      share: of the noise's variance, in [0, 1].
      schedule: the tables.
    """
    normal = _normal(keys, crystals.frac_coords)
    move = coordinates.renoising_move(normal, prediction.scaled_score, t, share, schedule)
    return dataclasses.replace(crystals, frac_coords=crystals.frac_coords + move)


def predictor_step(
    keys: Array,
    crystals: Crystals,
    prediction: Prediction,
    t: Array,
    s: Array,
    schedule: NoiseSchedule,
) -> Crystals:
    """Ancestral step of all three parts from t to an earlier s.

    Coordinates go as far as they go, maybe out of the unit cell; see `wrapped`.

    Args:
      keys: [B] one PRNG key per crystal.
      crystals: batch at time t.
      prediction: the denoiser's output for it.
      t: [B] int, the present time.
      s: [B] int, the earlier time; 0 gives clean crystals.
      schedule: the tables.
    """
    logits = prediction.species_logits
    gumbel = jax.vmap(lambda key, like: jax.random.gumbel(key, like.shape))(_fold(keys, 2), logits)
    return dataclasses.replace(
        crystals,
        lattice=lattice.reverse_step(
            _normal(_fold(keys, 0), crystals.lattice),
            crystals.lattice,
            prediction.lattice_eps,
            t,
            s,
            schedule,
        ),
        frac_coords=crystals.frac_coords
        + coordinates.predictor_move(
            _normal(_fold(keys, 1), crystals.frac_coords), prediction.scaled_score, t, s, schedule
        ),
        species=species.reverse_step(gumbel, logits, crystals.species, t, s, schedule),
    )


def wrapped(crystals: Crystals) -> Crystals:
    """The crystals with their coordinates in [0, 1)."""
    return dataclasses.replace(crystals, frac_coords=wrap(crystals.frac_coords))


def _fold(keys: Array, number: int) -> Array:
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)


def _normal(keys: Array, like: Array) -> Array:
    return jax.vmap(lambda key, row: jax.random.normal(key, row.shape))(keys, like)
