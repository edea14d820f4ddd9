"""Warm start: training from the weights of a trained model (`training.init_from`)."""

import dataclasses
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jax import Array

from crystal_diffusion_jax import commands, trained_model
from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.data.arrays import DatasetStatistics
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime import processes
from crystal_diffusion_jax.trained_model import TrainedModel
from crystal_diffusion_jax.training.step import Unflatten

# The property embedding, which is useless for other properties.
_PROPERTIES = "property/"
# Weights with an axis over the elements of the vocabulary, and that axis.
_BY_ELEMENT = {
    "species/Dense_0/kernel": 0,
    "species_head/Dense_1/kernel": 1,
    "species_head/Dense_1/bias": 0,
}


def load_initial_model(config: ExperimentConfig) -> TrainedModel | None:
    """The model that `training.init_from` names; None if it is empty.

    Raises:
      UserError: no such model, its network or noise schedule differs from the config's (only rank
        features may be added), or the processes hold different copies of it.
    """
    init_from = config.training.init_from
    if not init_from:
        return None

    def load() -> TrainedModel:
        try:
            return trained_model.load(init_from)
        except UserError as error:
            name = Path(init_from).name
            if not name.endswith("_pretrain"):
                raise UserError(f"training.init_from: {error}") from error
            first = {"config": f"{name.removesuffix('_pretrain')}:pretrain", "workdir": init_from}
            raise UserError(
                f"training.init_from={init_from} is not a trained model yet: train it first, with "
                f"{commands.next_command('train', commands.flags(first))}"
            ) from error

    model = processes.everywhere(load)
    if not processes.same_everywhere(model.weights_sha256):
        raise UserError(
            f"training.init_from={init_from} is not the same model in all processes; copy one of "
            "them to all machines"
        )
    expected, found = _architecture(config), _architecture(model.config)
    if not model.config.model.num_rank_features:
        del found["model.num_rank_features"], expected["model.num_rank_features"]
    for name, value in found.items():
        if value != expected[name]:
            raise UserError(
                f"training.init_from={init_from}: that model has {name}={value!r}, the config "
                f"{expected[name]!r}; give both the same, or leave init_from out"
            )
    return model


def _architecture(config: ExperimentConfig) -> dict[str, Any]:
    """The fields that the weights depend on."""
    fields = dataclasses.asdict(config)
    return {"scale_by_num_atoms": config.scale_by_num_atoms} | {
        f"{section}.{name}": value
        for section in ("model", "noise")
        for name, value in fields[section].items()
    }


def warm_start(
    params: Array, unflatten: Unflatten, statistics: DatasetStatistics, model: TrainedModel
) -> Array:
    """The weights of a trained model where it has them, fresh ones elsewhere.

    Elements are matched by atomic number. Elements and layers that the model lacks keep their fresh
    weights, and so does the property embedding if the model was trained on other properties or
    classes.

    Args:
      params: [W] fresh weights.
      unflatten: their layout.
      statistics: of the new training data.
      model: from `load_initial_model`.

    Returns:
      [W] weights.

    Raises:
      UserError: weights are not finite or do not fit the network described in model.json.
    """
    fresh = flax.traverse_util.flatten_dict(unflatten(params), sep="/")
    trained = flax.traverse_util.flatten_dict(model.params, sep="/")
    meanings = [(each.property_names, each.class_names) for each in (model.statistics, statistics)]
    if meanings[0] != meanings[1]:
        trained = {k: leaf for k, leaf in trained.items() if not k.startswith(_PROPERTIES)}
    _, here, there = np.intersect1d(
        statistics.vocabulary, model.statistics.vocabulary, return_indices=True
    )
    merged = dict(fresh)
    for name, leaf in trained.items():
        shape = list(fresh[name].shape) if name in fresh else None
        axis = _BY_ELEMENT.get(name)
        if shape is not None and axis is not None:
            shape[axis] = len(model.statistics.vocabulary)
        if list(leaf.shape) != shape or not np.isfinite(leaf).all():
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
