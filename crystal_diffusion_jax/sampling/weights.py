"""Checks the weights of a model before they are used."""

import functools
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.models.embeddings import Condition
from crystal_diffusion_jax.trained_model import TrainedModel


def check_weights(model: TrainedModel, name: str) -> None:
    """Checks that the weights are finite and those of the network that the model describes.

    Args:
      model: the model.
      name: path or name of the model as the user gave it.

    Raises:
      UserError: a weight is missing, superfluous, of another shape, NaN or infinite.
    """
    leaves = flax.traverse_util.flatten_dict(model.params, sep="/")
    found = {weight: leaf.shape for weight, leaf in leaves.items()}
    wanted = _weight_shapes(model.denoiser, len(model.statistics.property_names))
    for weight in sorted(wanted | found):
        if wanted.get(weight) != found.get(weight):
            raise UserError(
                f"--model={name} has weights of another network than its model.json describes: "
                f"{weight} is {found.get(weight, 'missing')} there and "
                f"{wanted.get(weight, 'absent')} in the network; copy the model again."
            )
    for weight, leaf in leaves.items():
        if not np.isfinite(leaf).all():
            raise UserError(
                f"--model={name} has weights that are NaN or infinite, in {weight}: its training "
                "diverged; use another model."
            )


# Cached: every request asks.
@functools.lru_cache(maxsize=8)
def _weight_shapes(denoiser: Denoiser, num_properties: int) -> dict[str, tuple[int, ...]]:
    """Shape of each weight of a network by its path, without computing any."""
    like: Any = jax.ShapeDtypeStruct
    one = Crystals(
        lattice=like((1, 3, 3), np.float32),
        frac_coords=like((1, 1, 3), np.float32),
        species=like((1, 1), np.int32),
        mask=like((1, 1), bool),
    )
    condition = Condition(
        values=like((1, num_properties), np.float32), present=like((1, num_properties), bool)
    )
    variables = jax.eval_shape(
        lambda *inputs: denoiser.init(jax.random.key(0), *inputs),
        one,
        like((1,), np.int32),
        condition,
    )
    leaves = flax.traverse_util.flatten_dict(variables["params"], sep="/")
    return {weight: leaf.shape for weight, leaf in leaves.items()}
