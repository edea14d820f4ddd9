"""The optimizer: clipped Adam, or Muon for the matrices of the Transformer blocks."""

import collections
from collections.abc import Callable
from typing import Any

import flax.traverse_util
import jax
import jax.flatten_util
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float
from optax import contrib

from crystal_diffusion_jax.config import MUON, TrainingConfig
from crystal_diffusion_jax.training.step import Unflatten

# Root mean square of Muon's step per weight, in units of the learning rate; with it one learning
# rate suits both kinds of weights. Reference: Liu et al., arXiv:2502.16982, eq. (4).
_MUON_RMS = 0.2
_OTHERS = "others"


def make_optimizer(
    config: TrainingConfig, unflatten: Unflatten | None = None
) -> optax.GradientTransformation:
    """Updates the vector of weights with the learning rate of `learning_rates`.

    Args:
      config: of the training.
      unflatten: layout of the vector, needed by Muon and by `property_rate`.
    """
    schedule = learning_rates(config)
    if unflatten is None and (config.optimizer == MUON or config.property_rate != 1):
        raise ValueError("muon and property_rate need the layout of the weights: pass unflatten")
    parts = [optax.clip_by_global_norm(config.gradient_clip)]
    if unflatten is not None and config.optimizer == MUON:
        parts.append(_muon(schedule, unflatten))
    else:
        parts.append(optax.adam(schedule))
    if unflatten is not None and config.property_rate != 1:
        parts.append(_property_rate(config.property_rate, unflatten))
    return optax.chain(*parts)


def learning_rates(config: TrainingConfig) -> optax.Schedule:
    """Linear warm-up, a constant, and a cosine over the last `decay_steps`.

    With `decay_steps` the rate before the cosine does not depend on `num_steps`, so a run that has
    not reached it may be prolonged without a trace.
    """
    peak, warmup, end = config.learning_rate, config.warmup_steps, config.num_steps
    start = max(warmup, end - (config.decay_steps or end))
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, peak, warmup),
            optax.constant_schedule(peak),
            optax.cosine_decay_schedule(peak, end - start, config.final_learning_rate / peak),
        ],
        [warmup, start],
    )


def _property_rate(factor: float, unflatten: Unflatten) -> optax.GradientTransformation:
    """Multiplies the updates of the property embedding."""

    def scaled(vector: Array, params: Array | None) -> Array:
        del params
        updates = unflatten(vector)
        embedding = {name: factor * leaf for name, leaf in updates.get("property", {}).items()}
        return jax.flatten_util.ravel_pytree(updates | {"property": embedding})[0]

    return optax.stateless(scaled)


def _muon(schedule: optax.Schedule, unflatten: Unflatten) -> optax.GradientTransformation:
    """Muon for the matrices of `by_shape`, Adam with Nesterov momentum for the other weights."""

    def dimensions(groups: Any) -> Any:
        return {
            name: None if name == _OTHERS else contrib.MuonDimensionNumbers(1, 2) for name in groups
        }

    inner = contrib.muon(
        schedule,
        adam_learning_rate=schedule,
        muon_weight_dimension_numbers=dimensions,
        consistent_rms=_MUON_RMS,
    )

    def init(vector: Array) -> Any:
        return inner.init(by_shape(vector, unflatten)[0])

    def update(gradient: Array, state: Any, params: Array | None = None) -> tuple[Array, Any]:
        groups, join = by_shape(gradient, unflatten)
        of_params = None if params is None else by_shape(params, unflatten)[0]
        updates, state = inner.update(groups, state, of_params)
        return join(updates), state

    return optax.GradientTransformation(init, update)


def by_shape(
    vector: Float[Array, " weights"], unflatten: Unflatten
) -> tuple[dict[str, Array], Callable[[dict[str, Array]], Array]]:
    """Splits the weights into groups that one operation can update.

    Returns:
      "AxB" -> [n, A, B] the n matrices of that shape in the blocks (a kernel with one matrix per
      head counts as several); "others" -> [V] the rest: embeddings, heads, biases and norms. And
      the function that joins the groups to one vector again.
    """
    tree = flax.traverse_util.flatten_dict(unflatten(vector), sep="/")
    matrices: dict[str, list[str]] = collections.defaultdict(list)
    others = []
    for name, leaf in tree.items():
        if name.startswith("block_") and leaf.ndim >= 2:
            matrices["x".join(map(str, leaf.shape[-2:]))].append(name)
        else:
            others.append(name)
    groups = {
        shape: jnp.concatenate([tree[name].reshape(-1, *tree[name].shape[-2:]) for name in names])
        for shape, names in sorted(matrices.items())
    }
    groups[_OTHERS] = jnp.concatenate([tree[name].ravel() for name in others])

    def join(groups: dict[str, Array]) -> Array:
        joined: dict[str, Array] = {}
        for names, flat in [
            (others, groups[_OTHERS]),
            *((names, groups[shape].ravel()) for shape, names in matrices.items()),
        ]:
            start = 0
            for name in names:
                size = tree[name].size
                joined[name] = flat[start : start + size].reshape(tree[name].shape)
                start += size
        ordered = flax.traverse_util.unflatten_dict({name: joined[name] for name in tree}, sep="/")
        return jax.flatten_util.ravel_pytree(ordered)[0]

    return groups, join
