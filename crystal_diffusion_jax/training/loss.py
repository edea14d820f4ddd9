"""The training loss: noise a batch, denoise it, compare.

Paper eqs. (3), lattice; (5), frac_coords; (8), species_kl: all in `diffusion_loss`.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Key

from crystal_diffusion_jax.config import LossConfig
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.denoising import ConditionalDenoise
from crystal_diffusion_jax.diffusion import joint, species
from crystal_diffusion_jax.diffusion.coordinates import mean_free
from crystal_diffusion_jax.diffusion.joint import Targets
from crystal_diffusion_jax.diffusion.schedules import NoiseSchedule
from crystal_diffusion_jax.models.embeddings import Condition

# Probability of hiding the properties of a crystal whose species are given.
_GIVEN_DROPOUT = 0.5


def draw_times(key: Key[Array, ""], batch_size: int, num_steps: int) -> Int[Array, " crystals"]:
    """Times, each uniform on 1..num_steps, together spread evenly over the range.

    A uniform offset shared by equally spaced points: less noise in the loss than independent
    draws. Reference: Kingma et al., arXiv:2107.00630, appendix I.1.
    """
    points = (jax.random.uniform(key) + jnp.arange(batch_size) / batch_size) % 1.0
    return jnp.minimum(jnp.floor(points * num_steps).astype(jnp.int32) + 1, num_steps)


def drop_conditions(
    key: Key[Array, ""],
    properties: Float[Array, "crystals properties"],
    probability: float | Float[Array, "crystals 1"],
) -> Condition:
    """Hides all properties of a crystal with the given probability, for classifier-free guidance.

    With several properties, each is also hidden independently with that probability, so that any
    subset can be requested. A value that is missing (NaN) is always hidden.
    """
    present = jax.random.uniform(key, (len(properties), 1)) >= probability
    if properties.shape[1] > 1:
        each = jax.random.uniform(jax.random.fold_in(key, 1), properties.shape)
        present = present & (each >= probability)
    known = ~jnp.isnan(properties)
    # Even where it is hidden, NaN would reach the gradient.
    return Condition(values=jnp.where(known, properties, 0.0), present=present & known)


@flax.struct.dataclass
class NoisyBatch:
    """A noised batch with the targets of the loss; its rows are independent of one another.

    Attributes:
      crystals: noisy, lattice in units of its scale.
      species: clean species.
      t: times.
      condition: what the denoiser sees of the properties.
      targets: what it regresses on.
      crystal_weight: share of each crystal in a mean over crystals, times its weight.
      atom_weight: share of each atom in a mean over atoms, times its crystal's weight.
      species_weight: the same in a mean over the atoms whose species are not given.
    """

    crystals: Crystals
    species: Int[Array, "crystals atoms"]
    t: Int[Array, " crystals"]
    condition: Condition
    targets: Targets
    crystal_weight: Float[Array, " crystals"]
    atom_weight: Float[Array, "crystals atoms"]
    species_weight: Float[Array, "crystals atoms"]


def noise_batch(
    key: Key[Array, ""],
    crystals: Crystals,
    properties: Float[Array, "crystals properties"],
    weight: Float[Array, " crystals"],
    num_species: int,
    schedule: NoiseSchedule,
    condition_dropout: float,
    species_given: float = 0.0,
) -> NoisyBatch:
    """Draws times, noise and hidden conditions for a batch.

    Where the species are given, the crystal keeps its clean ones and has no species terms in the
    loss. Its properties are hidden half of the time, if they are ever, as most users who know the
    formula ask for nothing else.

    Args:
      key: PRNG key.
      crystals: clean batch, lattice in units of its scale.
      properties: z-scores, NaN where missing.
      weight: of each crystal in the loss, 0 for those that only fill the batch.
      num_species: K.
      schedule: noise of each time.
      condition_dropout: probability of hiding a crystal's properties.
      species_given: probability of giving a crystal's species.
    """
    key_time, key_noise, key_condition = jax.random.split(key, 3)
    t = draw_times(key_time, len(weight), schedule.sigma.shape[0] - 1)
    noisy, targets = joint.noise(key_noise, crystals, t, num_species, schedule)
    counted = weight > 0
    counted_atoms = crystals.mask & counted[:, None]
    atom_weight = crystals.mask * weight[:, None] / jnp.sum(counted_atoms)
    species_weight, given = atom_weight, None
    hidden: float | Float[Array, "crystals 1"] = condition_dropout
    if species_given:
        draw = jax.random.uniform(jax.random.fold_in(key_condition, 2), weight.shape)
        given = draw < species_given
        shown = jnp.where(given[:, None], crystals.species, noisy.species)
        noisy = dataclasses.replace(noisy, species=shown)
        unknown_atoms = jnp.sum(counted_atoms & ~given[:, None])
        species_weight = jnp.where(given[:, None], 0.0, crystals.mask * weight[:, None])
        species_weight = species_weight / jnp.maximum(unknown_atoms, 1)
        if condition_dropout:
            more = max(_GIVEN_DROPOUT, condition_dropout)
            hidden = jnp.where(given[:, None], more, condition_dropout)
    condition = drop_conditions(key_condition, properties, hidden)
    return NoisyBatch(
        crystals=noisy,
        species=crystals.species,
        t=t,
        condition=dataclasses.replace(condition, species_given=given),
        targets=targets,
        crystal_weight=weight / jnp.sum(counted),
        atom_weight=atom_weight,
        species_weight=species_weight,
    )


def diffusion_loss(
    denoise: ConditionalDenoise,
    batch: NoisyBatch,
    schedule: NoiseSchedule,
    config: LossConfig,
    mean_free_score: bool,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of a `noise_batch`, or the part of it that some of its rows contribute.

    Args:
      denoise: the denoiser.
      batch: all rows, or some of them.
      schedule: the one that noised the batch.
      config: weights of the parts.
      mean_free_score: compare with the mean-free target; see `DenoiserConfig`.

    Returns:
      The scalar loss, and its unweighted parts: lattice and frac_coords (mean squared errors per
      component), species_kl and species_cross_entropy (nats per atom).
    """
    crystals, t = batch.crystals, batch.t
    prediction = denoise(crystals, t, batch.condition)
    target_score = batch.targets.scaled_score
    if mean_free_score:
        target_score = mean_free(target_score, crystals.mask)

    def mean_over_atoms(
        per_atom: Float[Array, "crystals atoms"], weight: Float[Array, "crystals atoms"]
    ) -> Float[Array, ""]:
        return jnp.sum(jnp.where(crystals.mask, per_atom, 0.0) * weight)

    lattice_error = jnp.mean(
        jnp.square(prediction.lattice_eps - batch.targets.lattice_eps), axis=(1, 2)
    )
    score_error = jnp.mean(jnp.square(prediction.scaled_score - target_score), axis=-1)
    species_terms = (prediction.species_logits, crystals.species, batch.species, t, schedule)
    parts = {
        "lattice": jnp.sum(lattice_error * batch.crystal_weight),  # eq. (3)
        "frac_coords": mean_over_atoms(score_error, batch.atom_weight),  # eq. (5)
        "species_kl": mean_over_atoms(  # eq. (8)
            species.kl_divergence(*species_terms), batch.species_weight
        ),
        "species_cross_entropy": mean_over_atoms(
            species.cross_entropy(*species_terms), batch.species_weight
        ),
    }
    total = sum((getattr(config, name) * part for name, part in parts.items()), jnp.zeros(()))
    return total, parts
