"""The denoiser as the diffusion calls it: a function of crystals, time and condition."""

from collections.abc import Callable
from typing import Any

from jax import Array
from jaxtyping import Int

from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.data.arrays import DatasetStatistics
from crystal_diffusion_jax.diffusion.coordinates import mean_free
from crystal_diffusion_jax.diffusion.joint import Prediction
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.models.embeddings import Condition


def build(config: ExperimentConfig, statistics: DatasetStatistics) -> Denoiser:
    """The network for data with these statistics."""
    model = config.model
    uses_ranks = model.num_rank_features and model.conditioning != "none"
    return Denoiser(
        model,
        len(statistics.vocabulary),
        statistics.z_quantiles if uses_ranks else (),
        statistics.one_hot_sizes,
        knows_given_species=config.loss.species_given > 0,
    )


# (noisy crystals, t, condition) -> Prediction
ConditionalDenoise = Callable[[Crystals, Int[Array, " crystals"], Condition], Prediction]


def bind(denoiser: Denoiser, params: Any) -> ConditionalDenoise:
    """The denoiser with its parameters; the score is made mean-free if the config says so."""

    def denoise(crystals: Crystals, t: Int[Array, " crystals"], condition: Condition) -> Prediction:
        outputs: Any = denoiser.apply({"params": params}, crystals, t, condition)
        lattice_eps, score, logits = outputs
        if denoiser.config.mean_free_score:
            score = mean_free(score, crystals.mask)
        return Prediction(lattice_eps=lattice_eps, scaled_score=score, species_logits=logits)

    return denoise
