"""Training that starts from the weights of a trained model instead of fresh ones."""

import dataclasses
from typing import Any

import flax.traverse_util
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jax import Array

from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.data.arrays import DatasetStatistics
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.trained_model import TrainedModel
from crystal_diffusion_jax.training.state import Unflatten

# The embedding of the properties, which says nothing about other properties.
_PROPERTIES = "property/"
# Weights with an axis that counts the elements of the vocabulary, and that axis.
_BY_ELEMENT = {
    "species/Dense_0/kernel": 0,
    "species_head/Dense_1/kernel": 1,
    "species_head/Dense_1/bias": 0,
}


def load_start(config: ExperimentConfig) -> TrainedModel:
    """The model that `training.init_from` names.

    Raises:
      UserError: no such model, or its network or its diffusion is another than the config's; the
        ranks of properties alone may be new.
    """
    init_from = config.training.init_from
    model = trained_model.load(init_from)
    wanted, found = (_arithmetic(each) for each in (config, model.config))
    if not model.config.model.num_rank_features:
        del found["model.num_rank_features"], wanted["model.num_rank_features"]
    for name, value in found.items():
        if value != wanted[name]:
            raise UserError(
                f"training.init_from={init_from}: that model has {name}={value!r}, the config "
                f"{wanted[name]!r}; give both the same, or leave init_from out"
            )
    return model


def _arithmetic(config: ExperimentConfig) -> dict[str, Any]:
    """What the weights are made for."""
    fields: dict[str, Any] = {"scale_by_num_atoms": config.scale_by_num_atoms}
    for section in ("model", "noise"):
        for name, value in dataclasses.asdict(getattr(config, section)).items():
            fields[f"{section}.{name}"] = value
    return fields


def warm_params(
    params: Array, unflatten: Unflatten, statistics: DatasetStatistics, model: TrainedModel
) -> Array:
    """The weights of a trained model where it has them, fresh ones elsewhere.

    Elements find their weights by atomic number. Fresh are the weights of elements and of parts
    that the model lacks, and those of the properties where it was trained on others.

    Args:
      params: [W] fresh weights.
      unflatten: their layout.
      statistics: of the new training data.
      model: where to start, see `load_start`.

    Returns:
      [W].

    Raises:
      UserError: weights that are not finite, or not those of the network that the model describes.
    """
    fresh = flax.traverse_util.flatten_dict(unflatten(params), sep="/")
    trained = flax.traverse_util.flatten_dict(model.params, sep="/")
    if model.statistics.property_names != statistics.property_names:
        trained = {k: leaf for k, leaf in trained.items() if not k.startswith(_PROPERTIES)}
    _, here, there = np.intersect1d(
        statistics.vocabulary, model.statistics.vocabulary, return_indices=True
    )
    merged = dict(fresh)
    for name, leaf in trained.items():
        wanted = list(fresh[name].shape) if name in fresh else None
        axis = _BY_ELEMENT.get(name)
        if wanted and axis is not None:
            wanted[axis] = len(model.statistics.vocabulary)
        if list(leaf.shape) != wanted or not np.isfinite(leaf).all():
            raise UserError(
                f"training.init_from: the weights {name} are not finite numbers of the network "
                "that its model.json describes; copy the model again"
            )
        if axis is None:
            merged[name] = jnp.asarray(leaf, fresh[name].dtype)
            continue
        rows = np.moveaxis(np.array(fresh[name]), axis, 0)
        rows[here] = np.moveaxis(leaf, axis, 0)[there]
        merged[name] = jnp.asarray(np.moveaxis(rows, 0, axis))
    return jax.flatten_util.ravel_pytree(flax.traverse_util.unflatten_dict(merged, sep="/"))[0]
