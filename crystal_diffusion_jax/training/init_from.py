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

# Variants of the configs in this package that train what others begin with.
_STAGES = ("pretrain", "ranks", "given")
# The property embedding: one row for each property.
_PROPERTIES = "property/"
# The vector of crystals with given species (`models.denoiser`).
_GIVEN = "species_given"
# Layers of one conditioning alone: where the condition meets the atoms (`models.denoiser`).
_INPUT, _IN_BLOCKS = "input/", "/qkv_condition/"
# Weights with an axis over the elements of the vocabulary, and that axis.
_BY_ELEMENT = {
    "species/Dense_0/kernel": 0,
    "species_head/Dense_1/kernel": 1,
    "species_head/Dense_1/bias": 0,
}


def load_initial_model(config: ExperimentConfig) -> TrainedModel | None:
    """The model that `training.init_from` names; None if it is empty.

    Raises:
      UserError: no such model, its network or noise schedule differs from the config's (but rank
        features may be added, and cdi become cds or the reverse), or the processes hold different
        copies of it.
    """
    init_from = config.training.init_from
    if not init_from:
        return None

    def load() -> TrainedModel:
        try:
            return trained_model.load(init_from)
        except UserError as error:
            name = Path(init_from).name
            experiment, _, stage = name.rpartition("_")
            if not experiment or stage not in _STAGES:
                raise UserError(f"training.init_from: {error}") from error
            first = {"config": f"{experiment}:{stage}", "workdir": init_from}
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
    if {config.model.conditioning, model.config.model.conditioning} == {"cdi", "cds"}:
        del found["model.conditioning"], expected["model.conditioning"]
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
        if name != "dtype"  # of activations
    }


def warm_start(
    params: Array, unflatten: Unflatten, statistics: DatasetStatistics, model: TrainedModel
) -> Array:
    """The weights of a trained model where it has them, fresh ones elsewhere.

    Elements are matched by atomic number, properties by name (see `_property_rows`). Elements and
    layers that the model lacks keep their fresh weights.

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
    _, here, there = np.intersect1d(
        statistics.vocabulary, model.statistics.vocabulary, return_indices=True
    )
    merged = dict(fresh)
    # Ranks may be added, given species may begin or cease to be told, the conditioning may change.
    exchanged = {_GIVEN}
    is_cds = not any(name.startswith(_INPUT) for name in fresh)
    if is_cds != (model.config.model.conditioning == "cds"):
        exchanged |= {
            name
            for name in fresh.keys() ^ trained.keys()
            if name.startswith(_INPUT) or _IN_BLOCKS in name
        }
    missing = fresh.keys() - trained.keys() - {f"{_PROPERTIES}by_rank"} - exchanged
    for name, leaf in {**trained, **dict.fromkeys(missing, np.nan)}.items():
        if name in exchanged and name not in fresh:
            continue
        shape = list(fresh[name].shape) if name in fresh else None
        axis = _BY_ELEMENT.get(name)
        if shape is not None and axis is not None:
            shape[axis] = len(model.statistics.vocabulary)
        if shape is not None and name.startswith(_PROPERTIES):
            shape[0] = _rows_of(name, model.statistics)[-1].stop
        if list(leaf.shape) != shape or not np.isfinite(leaf).all():
            raise UserError(
                f"training.init_from: the weights {name} are not finite numbers of the network "
                "that its model.json describes; copy the model again"
            )
        if name.startswith(_PROPERTIES):
            continue
        if axis is None:
            merged[name] = jnp.asarray(leaf, fresh[name].dtype)
            continue
        rows = np.moveaxis(np.array(fresh[name]), axis, 0)
        rows[here] = np.moveaxis(leaf, axis, 0)[there]
        merged[name] = jnp.asarray(np.moveaxis(rows, 0, axis))
    merged |= _property_rows(fresh, trained, statistics, model.statistics)
    return jax.flatten_util.ravel_pytree(flax.traverse_util.unflatten_dict(merged, sep="/"))[0]


def _property_rows(
    fresh: dict[str, Any],
    trained: dict[str, Any],
    here: DatasetStatistics,
    there: DatasetStatistics,
) -> dict[str, Array]:
    """The property embedding, such that at first nothing but known properties has an effect.

    A property that the model knows keeps its meaning, though the z-scores of the new data have
    another mean and deviation (its ranks are those among the new data). A new one has no effect,
    whether it is given or hidden, until it is trained: with the same conditioning, the network then
    computes what the model does when nothing is asked.

    Args:
      fresh: weights by name.
      trained: the model's.
      here: statistics of the new data.
      there: those of the model.
    """
    rows = {k: np.array(leaf) for k, leaf in fresh.items() if k.startswith(_PROPERTIES)}
    if not rows:
        return {}
    weight, bias, null = (f"{_PROPERTIES}{part}" for part in ("weight", "bias", "null"))
    meanings = [
        {name: each.class_names.get(name) for name in each.property_names} for each in (here, there)
    ]
    known = {name for name, _ in meanings[0].items() & meanings[1].items()}
    for p, name in enumerate(here.property_names):
        if name not in known:
            for key, leaf in rows.items():
                leaf[_rows_of(key, here)[p]] = 0.0
            continue
        old = there.property_names.index(name)
        for key in rows.keys() & trained.keys():
            rows[key][_rows_of(key, here)[p]] = trained[key][_rows_of(key, there)[old]]
        # z-score of the model's data = scale * z-score of the new data + shift; of classes, which
        # are not scored, the same.
        scale = here.property_std[p] / there.property_std[old]
        shift = (here.property_mean[p] - there.property_mean[old]) / there.property_std[old]
        rows[bias][p] += shift * rows[weight][_rows_of(weight, here)[p]].sum(axis=0)
        rows[weight][_rows_of(weight, here)[p]] *= scale
    # Of the model's properties that the new data lack, the null vectors stay.
    lost = [name not in known for name in there.property_names]
    hidden = trained[null][lost].sum(axis=0) / len(here.property_names)
    rows[bias] += hidden
    rows[null] += hidden
    return {name: jnp.asarray(leaf) for name, leaf in rows.items()}


def _rows_of(key: str, statistics: DatasetStatistics) -> list[slice]:
    """The rows of each property in a part of the embedding: one, or one weight for each class."""
    by_class = key == f"{_PROPERTIES}weight"
    sizes = [max(size, 1) if by_class else 1 for size in statistics.one_hot_sizes]
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
