"""Training that starts from the weights of a trained model instead of fresh ones."""

import flax.traverse_util
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jax import Array

from crystal_diffusion_jax import model_folder
from crystal_diffusion_jax.data.arrays import DatasetStatistics
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.training.state import Unflatten

# The embedding of the properties, which says nothing about other properties.
_PROPERTIES = "property/"
# Weights with an axis that counts the elements of the vocabulary, and that axis.
_BY_ELEMENT = {
    "species/Dense_0/kernel": 0,
    "species_head/Dense_1/kernel": 1,
    "species_head/Dense_1/bias": 0,
}


def warm_params(
    params: Array, unflatten: Unflatten, statistics: DatasetStatistics, start_from: str
) -> Array:
    """The weights of a trained model where it has them, fresh ones elsewhere.

    Elements find their weights by atomic number. Fresh are the weights of elements and of parts
    that the model lacks, and those of the properties where it was trained on others.

    Args:
      params: [W] fresh weights.
      unflatten: their layout.
      statistics: of the new training data.
      start_from: folder or name of the model.

    Returns:
      [W].

    Raises:
      UserError: no such model, or its network has another shape.
    """
    model = model_folder.load(start_from)
    fresh = flax.traverse_util.flatten_dict(unflatten(params), sep="/")
    trained = flax.traverse_util.flatten_dict(model.params, sep="/")
    if model.statistics.property_names != statistics.property_names:
        trained = {k: leaf for k, leaf in trained.items() if not k.startswith(_PROPERTIES)}
    _, here, there = np.intersect1d(
        statistics.vocabulary, model.statistics.vocabulary, return_indices=True
    )
    for name, axis in _BY_ELEMENT.items():
        leaf = np.moveaxis(np.array(fresh[name]), axis, 0)
        kept = np.moveaxis(trained[name], axis, 0)
        if leaf.shape[1:] == kept.shape[1:]:
            leaf[here] = kept[there]
            trained[name] = np.moveaxis(leaf, 0, axis)
    for name, leaf in trained.items():
        if name not in fresh or fresh[name].shape != leaf.shape:
            raise UserError(
                f"training.start_from={start_from}: that network has another shape, as its weights "
                f"{name} show; take the fields of config.model from its model.json"
            )
    merged = {name: jnp.asarray(trained.get(name, leaf)) for name, leaf in fresh.items()}
    return jax.flatten_util.ravel_pytree(flax.traverse_util.unflatten_dict(merged, sep="/"))[0]
