"""The training loss: noise a batch, denoise it, compare, paper eqs. (3), (5), (8)."""

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from crystal_diffusion_jax.config import LossConfig
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.denoising import ConditionalDenoise
from crystal_diffusion_jax.diffusion import joint, species
from crystal_diffusion_jax.diffusion.coordinates import mean_free
from crystal_diffusion_jax.diffusion.joint import Targets
from crystal_diffusion_jax.diffusion.schedules import NoiseSchedule
from crystal_diffusion_jax.models.embeddings import Condition


def draw_times(key: Array, batch_size: int, num_steps: int) -> Array:
    """[B] times, each uniform on 1..T, together spread evenly over the range.

    One uniform offset shared by B equally spaced points: less noise in the loss than independent
    draws. Reference: Kingma et al., arXiv:2107.00630, appendix I.1.
    """
    points = (jax.random.uniform(key) + jnp.arange(batch_size) / batch_size) % 1.0
    return jnp.minimum(jnp.floor(points * num_steps).astype(jnp.int32) + 1, num_steps)


def drop_conditions(key: Array, properties: Array, probability: float) -> Condition:
    """Hides all properties of a crystal with the given probability, for the unconditional branch.

    Of several, each is besides hidden on its own with that probability, so that any subset can be
    asked for. `properties` is [B, P].
    """
    present = jax.random.uniform(key, (len(properties), 1)) >= probability
    if properties.shape[1] > 1:
        each = jax.random.uniform(jax.random.fold_in(key, 1), properties.shape)
        present = present & (each >= probability)
    return Condition(values=properties, present=present)


@flax.struct.dataclass
class NoisyBatch:
    """A batch with noise, and what the loss compares with; rows are independent of one another.

    Attributes:
      crystals: noisy, lattice in units of its scale.
      species: [B, N] clean species.
      t: [B] int times.
      condition: what the denoiser is told.
      targets: what it regresses on.
      crystal_weight: [B] share of each crystal in a mean over crystals, times its weight.
      atom_weight: [B, N] share of each atom in a mean over atoms, times its crystal's weight.
    """

    crystals: Crystals
    species: Array
    t: Array
    condition: Condition
    targets: Targets
    crystal_weight: Array
    atom_weight: Array


def noise_batch(
    key: Array,
    crystals: Crystals,
    properties: Array,
    weight: Array,
    num_species: int,
    schedule: NoiseSchedule,
    condition_dropout: float,
) -> NoisyBatch:
    """Draws times, noise and hidden conditions for a batch.

    Args:
      key: PRNG key.
      crystals: clean batch, lattice in units of its scale.
      properties: [B, P] z-scores.
      weight: [B] weight of each crystal, 0 for those that only fill the batch.
      num_species: K.
      schedule: the tables.
      condition_dropout: probability of hiding a crystal's properties.
    """
    key_time, key_noise, key_condition = jax.random.split(key, 3)
    t = draw_times(key_time, len(weight), schedule.sigma.shape[0] - 1)
    noisy, targets = joint.noise(key_noise, crystals, t, num_species, schedule)
    counted = weight > 0
    num_atoms = jnp.sum(crystals.mask & counted[:, None])
    return NoisyBatch(
        crystals=noisy,
        species=crystals.species,
        t=t,
        condition=drop_conditions(key_condition, properties, condition_dropout),
        targets=targets,
        crystal_weight=weight / jnp.sum(counted),
        atom_weight=crystals.mask * weight[:, None] / num_atoms,
    )


def diffusion_loss(
    denoise: ConditionalDenoise,
    batch: NoisyBatch,
    schedule: NoiseSchedule,
    config: LossConfig,
    mean_free_score: bool,
) -> tuple[Array, dict[str, Array]]:
    """Weighted sums over the rows; over a whole batch they are the means that are minimised.

    Args:
      denoise: the denoiser.
      batch: all rows of a `noise_batch`, or some of them.
      schedule: the tables.
      config: weights of the parts.
      mean_free_score: compare with the mean-free target; see `DenoiserConfig`.

    Returns:
      The scalar loss, and its unweighted parts: lattice and frac_coords (mean squared errors per
      component), species_kl and species_cross_entropy (nats per atom).
    """
    crystals, t = batch.crystals, batch.t
    prediction = denoise(crystals, t, batch.condition)
    score = batch.targets.scaled_score
    if mean_free_score:
        score = mean_free(score, crystals.mask)

    def mean_over_atoms(per_atom: Array) -> Array:
        return jnp.sum(jnp.where(crystals.mask, per_atom, 0.0) * batch.atom_weight)

    lattice_error = jnp.mean(
        jnp.square(prediction.lattice_eps - batch.targets.lattice_eps), axis=(1, 2)
    )
    score_error = jnp.mean(jnp.square(prediction.scaled_score - score), axis=-1)
    species_terms = (prediction.species_logits, crystals.species, batch.species, t, schedule)
    parts = {
        "lattice": jnp.sum(lattice_error * batch.crystal_weight),
        "frac_coords": mean_over_atoms(score_error),
        "species_kl": mean_over_atoms(species.kl_divergence(*species_terms)),
        "species_cross_entropy": mean_over_atoms(species.cross_entropy(*species_terms)),
    }
    total = sum((getattr(config, name) * part for name, part in parts.items()), jnp.zeros(()))
    return total, parts
