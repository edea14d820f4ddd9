"""The train and the validation step, on one device and on several, and the optimizer."""

import dataclasses
import json
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from crystal_diffusion_jax import denoising
from crystal_diffusion_jax.config import TrainingConfig
from crystal_diffusion_jax.runtime.devices import replicated
from crystal_diffusion_jax.training.loss import drop_conditions
from crystal_diffusion_jax.training.optimizer import make_optimizer
from crystal_diffusion_jax.training.step import Arrays, TrainState, TrainSteps
from tests.child import on_devices
from tests.smoke_run import (
    CONFIG,
    StepInputs,
    loss_curve,
)


@pytest.fixture(scope="module")
def inputs() -> StepInputs:
    return StepInputs()


def one_step(group: Arrays, index: int) -> Arrays:
    """A step of a group, with its axis of steps."""
    return jax.tree.map(lambda array: array[index : index + 1], group)


@pytest.fixture(scope="module")
def batch(inputs) -> Arrays:
    return one_step(inputs.batches(0), 0)


@pytest.fixture(scope="module")
def traces() -> Iterator[list[None]]:
    """One entry for each time that the denoiser is bound, which is once a trace."""
    entries: list[None] = []
    bind = denoising.bind

    def counted(*args):
        entries.append(None)
        return bind(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(denoising, "bind", counted)
        yield entries


@pytest.fixture(scope="module")
def step(inputs, traces) -> TrainSteps:
    """One step at a time."""
    steps = inputs.train_steps()

    def one(state, batch, key):
        state, metrics = steps(state, batch, key)
        return state, {name: values[0] for name, values in metrics.items()}

    return one


def copy(state: TrainState) -> TrainState:
    """For the step that consumes its state."""
    return jax.tree.map(jnp.copy, state)


def test_steps_are_traced_once(inputs, step, batch, traces):
    state, _ = step(inputs.state(), batch, inputs.key)
    traced = len(traces)
    assert traced > 0
    for index in range(3):
        state, _ = step(state, one_step(inputs.batches(1), index), inputs.key)
    assert len(traces) == traced


def test_validation_is_the_loss_of_training_for_averaged_weights_and_all_conditions(
    inputs, step, batch
):
    *rest, weight = batch
    key = jax.random.fold_in(inputs.key, 0)  # of the first step
    key_condition = jax.random.split(key, 3)[2]
    condition = drop_conditions(key_condition, rest[1][0], CONFIG.loss.condition_dropout)
    told = np.asarray(condition.present)[:, 0]
    assert 0 < told.sum() < len(told)
    evaluate, start = inputs.evaluation_step(), inputs.state()
    half = jax.device_put(0.5 * start.params, replicated(inputs.mesh))
    averaged = dataclasses.replace(start, ema_params=half)
    of_average = dataclasses.replace(start, params=half)
    for counted in (np.ones(len(told)), told):
        both = (*rest, jax.device_put(np.asarray(weight) * counted, weight.sharding))
        found = evaluate(averaged, jax.tree.map(lambda array: array[0], both), key)
        _, expected = step(copy(of_average), both, inputs.key)
        # Two programs, whose sums of some hundred terms, each rounded to 2^-24, differ in order.
        same = [
            np.allclose(value, expected[name], rtol=1e-5, atol=1e-7)
            for name, value in found.items()
        ]
        assert len(same) == 5
        # Without the crystals that training does not tell their property, nothing differs.
        assert all(same) == (counted is told)


def test_the_gradient_is_the_slope_of_the_loss(inputs, step, batch):
    start = inputs.state()
    after, metrics = step(copy(start), batch, inputs.key)
    # Adam's first moment is a multiple of the gradient after one step.
    moment, weights = jax.device_get((optax.tree.get(after.opt_state, "mu"), start.params))
    direction = moment / np.linalg.norm(moment)

    def loss_at(distance: float) -> float:
        params = jax.device_put(weights + distance * direction, replicated(inputs.mesh))
        _, found = step(copy(dataclasses.replace(start, params=params)), batch, inputs.key)
        return float(found["loss"])

    slope = (loss_at(0.01) - loss_at(-0.01)) / 0.02
    np.testing.assert_allclose(metrics["grad_norm"], slope, rtol=1e-2)


def test_the_weights_go_against_the_gradient_by_the_learning_rate(inputs, step, batch):
    start = inputs.state()
    # The learning rate of the first step is 0, so that the second one finds the same gradient.
    first, _ = step(copy(start), batch, inputs.key)
    np.testing.assert_array_equal(first.params, start.params)
    gradient = np.asarray(optax.tree.get(first.opt_state, "mu"))
    second, _ = step(dataclasses.replace(first, step=start.step), batch, inputs.key)
    change = np.asarray(second.params) - np.asarray(start.params)
    # Adam's step of a gradient that is always the same is the learning rate against its sign; of
    # the smallest the sign is rounding. Weights of up to 4 are known to 2.4e-7.
    rate = CONFIG.training.learning_rate / CONFIG.training.warmup_steps
    clear = np.abs(gradient) > 1e-4 * np.abs(gradient).max()
    assert clear.mean() > 0.5
    np.testing.assert_allclose(change[clear], -rate * np.sign(gradient[clear]), atol=5e-7)


@pytest.mark.parametrize(("age", "decay"), [(0, 0.1), (9, 10 / 19), (10**6, 0.999)])
def test_the_average_weights_move_by_the_decay_of_their_age(inputs, step, batch, age, decay):
    assert CONFIG.training.ema_decay == 0.999
    # After one step, because the learning rate of the very first is 0.
    state, _ = step(inputs.state(), batch, inputs.key)
    ones = np.ones(state.params.shape, np.float32)
    placed = jax.device_put((np.int32(age), ones), replicated(inputs.mesh))
    state = dataclasses.replace(state, step=placed[0], ema_params=placed[1])
    after, _ = step(state, batch, inputs.key)
    expected = decay * 1.0 + (1 - decay) * np.asarray(after.params)
    np.testing.assert_allclose(after.ema_params, expected, rtol=1e-5, atol=1e-6)


def test_a_step_draws_other_noise_than_the_next_and_the_same_when_repeated(inputs, step, batch):
    state = inputs.state()
    _, first = step(copy(state), batch, inputs.key)
    _, again = step(copy(state), batch, inputs.key)
    later = dataclasses.replace(state, step=state.step + 1)
    _, second = step(copy(later), batch, inputs.key)
    assert first["loss"] == again["loss"]
    assert first["loss"] != second["loss"]


EIGHT_DEVICES = """
import json, re, jax
from tests.smoke_run import StepInputs
assert jax.device_count() == 8
inputs = StepInputs()
arguments = inputs.state(), inputs.batches(0), inputs.key
program = inputs.train_steps().lower(*arguments).compile().as_text()
exchange = r"= (.*) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)[(]"
found = [
    (kind, [int(size) if size else 1 for size in re.findall(r"[fs]32[[](\\d*)[]]", shapes)])
    for shapes, kind in re.findall(exchange, program)
]
print(json.dumps([found, arguments[0].params.size]))
"""


@pytest.mark.slow  # that the losses are those of one device is in test_determinism.py
def test_eight_devices_exchange_one_gradient_and_a_few_numbers():
    printed = on_devices(8, EIGHT_DEVICES).splitlines()
    exchanged, num_weights = json.loads(printed[-1])
    assert {kind for kind, _ in exchanged} == {"all-reduce"}
    sizes = sorted((size for _, sizes in exchanged for size in sizes), reverse=True)
    assert sizes[0] == num_weights
    assert set(sizes[1:]) == {1}
    assert len(sizes) < 12


@pytest.mark.slow
def test_steps_that_run_as_one_program_are_those_that_run_one_by_one(inputs, step):
    together = loss_curve(1)
    assert len(together) == CONFIG.training.steps_per_call
    state, losses = inputs.state(), []
    for index in range(len(together)):
        state, metrics = step(state, one_step(inputs.batches(0), index), inputs.key)
        losses.append(metrics["loss"])
    # Sums of some thousand terms agree to 1e-6. A step's rounding changes later losses by its share
    # of what the steps change in all, which is a few percent, so five steps add nothing to it.
    np.testing.assert_allclose(losses, together, rtol=1e-5)


def updates_for(config: TrainingConfig, gradients: np.ndarray) -> np.ndarray:
    """[S, D] updates that the optimizer makes of [S, D] gradients at constant weights."""
    optimizer = make_optimizer(config)
    params = jnp.zeros(gradients.shape[1])
    state: optax.OptState = optimizer.init(params)
    update = jax.jit(optimizer.update)
    updates = []
    for gradient in gradients:
        change, state = update(jnp.asarray(gradient, jnp.float32), state, params)
        updates.append(np.asarray(change))
    return np.array(updates)


def test_the_learning_rate_warms_up_linearly_and_falls_by_a_cosine():
    config = TrainingConfig(
        num_steps=30, warmup_steps=10, learning_rate=0.5, final_learning_rate=0.02
    )
    # Adam's update for a constant gradient is the learning rate itself.
    rates = -updates_for(config, np.full((31, 1), 0.3))[:, 0]
    phase = np.arange(21) / 20
    cosine = 0.02 + (0.5 - 0.02) * (1 + np.cos(np.pi * phase)) / 2
    np.testing.assert_allclose(rates[:11], 0.05 * np.arange(11), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(rates[10:], cosine, rtol=1e-4)


def test_gradients_are_clipped_before_adam():
    config = TrainingConfig(
        num_steps=100,
        warmup_steps=0,
        learning_rate=0.1,
        final_learning_rate=0.1,
        gradient_clip=2.0,
    )
    gradients = np.random.default_rng(0).normal(size=(6, 4))
    gradients[3] *= 1e6  # one outlier; without clipping it would rule the moments from then on
    updates = updates_for(config, gradients)

    # Adam by hand, with its usual constants: Kingma and Ba, arXiv:1412.6980, algorithm 1.
    first, second = np.zeros(4), np.zeros(4)
    for count, (gradient, update) in enumerate(zip(gradients, updates, strict=True), start=1):
        clipped = gradient * min(1.0, 2.0 / np.linalg.norm(gradient))
        first = 0.9 * first + 0.1 * clipped
        second = 0.999 * second + 0.001 * clipped**2
        adam = (first / (1 - 0.9**count)) / (np.sqrt(second / (1 - 0.999**count)) + 1e-8)
        np.testing.assert_allclose(update, -0.1 * adam, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"keep_last": 0}, "keep_last"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"gradient_clip": float("nan")}, "gradient_clip"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"num_steps": 10, "warmup_steps": 10}, "warmup_steps"),
        ({"log_every": 100, "checkpoint_every": 250}, "checkpoint_every"),
        ({"log_every": 100, "steps_per_call": 30}, "steps_per_call"),
        ({"num_steps": 1001}, "steps_per_call"),
    ],
)
def test_impossible_training_settings_are_refused_by_name(changes, named):
    with pytest.raises(ValueError, match=named):
        TrainingConfig(**changes)
