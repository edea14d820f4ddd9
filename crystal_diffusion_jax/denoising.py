"""The denoiser as the diffusion calls it: a plain function of crystals, time and condition."""

from collections.abc import Callable
from typing import Any

from jax import Array
from jaxtyping import Int

from crystal_diffusion_jax.config import DenoiserConfig
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.data.arrays import DatasetStatistics
from crystal_diffusion_jax.diffusion.coordinates import mean_free
from crystal_diffusion_jax.diffusion.joint import Prediction
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.models.embeddings import Condition


def build(config: DenoiserConfig, statistics: DatasetStatistics) -> Denoiser:
    """The network for data with these statistics.

    Raises:
      UserError: it needs the ranks of properties, and the statistics have no quantiles.
    """
    if not config.num_rank_features or config.conditioning == "none":
        return Denoiser(config, num_species=len(statistics.vocabulary))
    if not statistics.property_quantiles:
        raise UserError(
            f"model.num_rank_features={config.num_rank_features} needs the quantiles of the "
            "properties, which these statistics lack; set it to 0"
        )
    return Denoiser(config, len(statistics.vocabulary), statistics.z_quantiles)


# (noisy crystals, t, condition) -> Prediction
ConditionalDenoise = Callable[[Crystals, Int[Array, " crystals"], Condition], Prediction]


def bind(denoiser: Denoiser, params: Any) -> ConditionalDenoise:
    """The denoiser with its parameters, returning a `Prediction`; its score mean-free if wanted."""

    def denoise(crystals: Crystals, t: Int[Array, " crystals"], condition: Condition) -> Prediction:
        outputs: Any = denoiser.apply({"params": params}, crystals, t, condition)
        lattice_eps, score, logits = outputs
        if denoiser.config.mean_free_score:
            score = mean_free(score, crystals.mask)
        return Prediction(lattice_eps=lattice_eps, scaled_score=score, species_logits=logits)

    return denoise
