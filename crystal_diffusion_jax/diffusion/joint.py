"""The three diffusions on one batch of crystals, with the lattice in units of its scale.

Paper eqs. (1), (4), (6) together in `noise`; the paper's sampler is `prior`, then at each time
`corrector_step` and `predictor_step`.

`prior` and the steps draw from the keys that they are given, one per crystal so that a crystal does
not depend on its batch. Fold the time and the role in first: no two of them may share a key.
The steps do not wrap coordinates into the unit cell; `wrapped` does.
"""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
from jax import Array
from jaxtyping import Bool, Float, Int, Key

from crystal_diffusion_jax.crystals import Crystals, wrap
from crystal_diffusion_jax.diffusion import coordinates, lattice, species
from crystal_diffusion_jax.diffusion.schedules import NoiseSchedule


@flax.struct.dataclass
class Prediction:
    """The output of a denoiser.

    Attributes:
      lattice_eps: noise in the lattice.
      scaled_score: score of frac_coords times sqrt(lambda_t); 0 on padding.
      species_logits: distribution of the clean species.
    """

    lattice_eps: Float[Array, "crystals 3 3"]
    scaled_score: Float[Array, "crystals atoms 3"]
    species_logits: Float[Array, "crystals atoms species"]


@flax.struct.dataclass
class Targets:
    """Regression targets of a noised batch; the clean species are in the clean batch.

    Attributes:
      lattice_eps: the noise added to the lattice.
      scaled_score: true score of frac_coords times sqrt(lambda_t).
    """

    lattice_eps: Float[Array, "crystals 3 3"]
    scaled_score: Float[Array, "crystals atoms 3"]


# (noisy crystals, t) -> Prediction
Denoise = Callable[[Crystals, Int[Array, " crystals"]], Prediction]


def noise(
    key: Key[Array, ""],
    crystals: Crystals,
    t: Int[Array, " crystals"],
    num_species: int,
    schedule: NoiseSchedule,
) -> tuple[Crystals, Targets]:
    """One draw of the forward process of clean crystals at times t in 1..T."""
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


def prior(
    keys: Key[Array, " crystals"], mask: Bool[Array, "crystals atoms"], num_species: int
) -> Crystals:
    """Draws x_T: normal lattice, uniform frac_coords, uniform species."""

    def draw(key: Key[Array, ""]) -> tuple[Float[Array, "atoms 3"], Int[Array, " atoms"]]:
        key_frac, key_species = jax.random.split(key)
        frac_coords = jax.random.uniform(key_frac, (mask.shape[1], 3))
        return frac_coords, jax.random.randint(key_species, mask.shape[1:], 0, num_species)

    frac_coords, kinds = jax.vmap(draw)(_fold(keys, 0))
    return Crystals(
        lattice=lattice.prior(_fold(keys, 1)), frac_coords=frac_coords, species=kinds, mask=mask
    )


def renoised(
    keys: Key[Array, " crystals"],
    crystals: Crystals,
    t: Int[Array, " crystals"],
    schedule: NoiseSchedule,
) -> Crystals:
    """Draws x_t of crystals whose species are given: noisy lattice and coordinates."""
    lattice_eps = _normal(_fold(keys, 0), crystals.lattice)
    frac_eps = _normal(_fold(keys, 1), crystals.frac_coords)
    return dataclasses.replace(
        crystals,
        lattice=lattice.noised(crystals.lattice, lattice_eps, t, schedule),
        frac_coords=coordinates.noised(crystals.frac_coords, frac_eps, t, schedule),
    )


def corrector_step(
    keys: Key[Array, " crystals"],
    crystals: Crystals,
    prediction: Prediction,
    t: Int[Array, " crystals"],
    step_size: float | Float[Array, ""],
    schedule: NoiseSchedule,
) -> Crystals:
    """Langevin step of the coordinates at fixed t; lattice and species stay.

    `step_size` is that at t = 1, in squared fractional units.
    """
    normal = _normal(keys, crystals.frac_coords)
    move = coordinates.corrector_move(normal, prediction.scaled_score, t, step_size, schedule)
    return dataclasses.replace(crystals, frac_coords=crystals.frac_coords + move)


def renoising_step(
    keys: Key[Array, " crystals"],
    crystals: Crystals,
    prediction: Prediction,
    t: Int[Array, " crystals"],
    share: float,
    schedule: NoiseSchedule,
) -> Crystals:
    """Replaces a share of the coordinates' noise at fixed t; lattice and species stay.

    `share` is that of the noise's variance, in [0, 1].
    """
    normal = _normal(keys, crystals.frac_coords)
    move = coordinates.renoising_move(normal, prediction.scaled_score, t, share, schedule)
    return dataclasses.replace(crystals, frac_coords=crystals.frac_coords + move)


def predictor_step(
    keys: Key[Array, " crystals"],
    crystals: Crystals,
    prediction: Prediction,
    t: Int[Array, " crystals"],
    s: Int[Array, " crystals"],
    schedule: NoiseSchedule,
) -> Crystals:
    """Ancestral step of lattice, coordinates and species from t to an earlier s.

    At s = 0 the crystals are clean.
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


def _fold(keys: Key[Array, " crystals"], number: int) -> Key[Array, " crystals"]:
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)


def _normal(
    keys: Key[Array, " crystals"], like: Float[Array, " crystals *shape"]
) -> Float[Array, " crystals *shape"]:
    return jax.vmap(lambda key, row: jax.random.normal(key, row.shape))(keys, like)
