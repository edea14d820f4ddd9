"""Muon on the vector of weights, against optax's on the tree and against its definition."""

from typing import Any

import jax
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from optax import contrib

from crystal_diffusion_jax.config import TrainingConfig
from crystal_diffusion_jax.training.optimizer import by_shape, make_optimizer

CONFIG = TrainingConfig(
    optimizer="muon", num_steps=100, warmup_steps=0, learning_rate=1e-2, gradient_clip=1e9
)
SHAPES = {
    "block_0": {"qkv": {"kernel": (6, 9), "bias": (9,)}, "beta_kernel": (2, 6, 3)},
    "block_1": {"qkv": {"kernel": (6, 9), "bias": (9,)}, "out": {"kernel": (6, 3)}},
    "score_head": {"kernel": (6, 3)},
}


def tree(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: np.asarray(rng.normal(size=shape), np.float32),
        SHAPES,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def test_groups_hold_every_weight_once_and_join_to_the_same_vector():
    vector, unflatten = ravel_pytree(tree(0))
    groups, join = by_shape(vector, unflatten)
    assert {name: group.shape for name, group in groups.items()} == {
        "6x3": (3, 6, 3),  # two heads' and one block's; the score head's is no block's
        "6x9": (2, 6, 9),
        "others": (9 + 9 + 18,),
    }
    np.testing.assert_array_equal(join(groups), vector)
    doubled = {name: 2 * group for name, group in groups.items()}
    np.testing.assert_array_equal(join(doubled), 2 * vector)


def test_steps_are_those_of_muon_on_single_matrices_and_of_adam_elsewhere():
    params = tree(0)
    vector, unflatten = ravel_pytree(params)
    ours = make_optimizer(CONFIG, unflatten)
    schedule = optax.cosine_decay_schedule(1e-2, 100, 1e-3)
    muon = contrib.muon(schedule, consistent_rms=0.2)
    adam = optax.nadam(schedule)  # as optax has it inside of Muon
    matrix, head = params["block_1"]["qkv"]["kernel"], params["score_head"]["kernel"]
    one_head = params["block_0"]["beta_kernel"][1]
    state = jax.jit(ours.init)(vector)
    states = [jax.jit(muon.init)(matrix), jax.jit(muon.init)(one_head), jax.jit(adam.init)(head)]
    our_update, by_muon, by_adam = map(jax.jit, (ours.update, muon.update, adam.update))
    for step in range(3):
        gradient = tree(step + 1)
        update, state = our_update(ravel_pytree(gradient)[0], state, vector)
        found = unflatten(update)
        for index, (rule, leaf, mine) in enumerate(
            [
                (by_muon, gradient["block_1"]["qkv"]["kernel"], found["block_1"]["qkv"]["kernel"]),
                (
                    by_muon,
                    gradient["block_0"]["beta_kernel"][1],
                    found["block_0"]["beta_kernel"][1],
                ),
                (by_adam, gradient["score_head"]["kernel"], found["score_head"]["kernel"]),
            ]
        ):
            expected, states[index] = rule(leaf, states[index], leaf)
            np.testing.assert_allclose(mine, expected, rtol=2e-3, atol=1e-6)


def test_the_first_step_of_a_matrix_is_orthogonal_and_of_the_given_size():
    vector, unflatten = ravel_pytree(tree(0))
    optimizer = make_optimizer(CONFIG, unflatten)
    state = jax.jit(optimizer.init)(vector)
    update, _ = jax.jit(optimizer.update)(ravel_pytree(tree(1))[0], state, vector)
    step = np.asarray(unflatten(update)["block_0"]["qkv"]["kernel"])
    singular = np.linalg.svd(step, compute_uv=False)
    # 0.2 lr sqrt(larger side), to within what five iterations of Newton and Schulz leave.
    np.testing.assert_allclose(singular, 0.2 * 1e-2 * np.sqrt(9), rtol=0.4)


def test_muon_needs_the_layout_of_the_weights():
    with pytest.raises(ValueError, match="layout"):
        make_optimizer(CONFIG)
