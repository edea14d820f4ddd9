import dataclasses
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from crystal_diffusion_jax import denoising
from crystal_diffusion_jax.devices import replicated
from crystal_diffusion_jax.training.optimizer import make_optimizer
from crystal_diffusion_jax.training.state import TrainingConfig, TrainState
from crystal_diffusion_jax.training.step import Arrays, TrainSteps
from tests.smoke_run import CONFIG, StepInputs, loss_curve

NUM_GROUPS = 4
NUM_STEPS = NUM_GROUPS * CONFIG.training.steps_per_call


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
def one_device_curve(traces) -> list[float]:
    return loss_curve(NUM_GROUPS)


@pytest.fixture(scope="module")
def inputs() -> StepInputs:
    return StepInputs()


@pytest.fixture(scope="module")
def batch(inputs) -> Arrays:
    """The batch of the first step, with its axis of steps."""
    return jax.tree.map(lambda array: array[:1], inputs.batches(0))


@pytest.fixture(scope="module")
def step(inputs) -> TrainSteps:
    """One step at a time."""
    steps = inputs.train_steps()

    def one(state, batch, key):
        state, metrics = steps(state, batch, key)
        return state, {name: values[0] for name, values in metrics.items()}

    return one


def copy(state: TrainState) -> TrainState:
    """For the step that consumes its state."""
    return jax.tree.map(jnp.copy, state)


def assert_trees_close(result: object, expected: object) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), result, expected
    )


def test_twenty_steps_are_traced_once(one_device_curve, traces):
    assert len(one_device_curve) == NUM_STEPS
    assert len(traces) == 1


def test_training_lowers_the_loss(one_device_curve):
    assert np.mean(one_device_curve[-5:]) < 0.9 * np.mean(one_device_curve[:5])


def test_eight_devices_give_the_loss_curve_of_one_from_a_single_trace(one_device_curve):
    program = (
        "import json; from unittest.mock import patch; import jax;"
        "from crystal_diffusion_jax import denoising; from tests.smoke_run import loss_curve\n"
        "with patch.object(denoising, 'bind', wraps=denoising.bind) as bind:\n"
        f"    curve = loss_curve({NUM_GROUPS})\n"
        "print(json.dumps([jax.device_count(), bind.call_count, curve]))"
    )
    flags = "--xla_force_host_platform_device_count=8"
    finished = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    num_devices, num_traces, curve = json.loads(finished.stdout.splitlines()[-1])
    assert num_devices == 8
    assert num_traces == 1
    np.testing.assert_allclose(curve, one_device_curve, rtol=1e-5)


def test_the_compiled_losses_are_the_eager_ones(inputs):
    evaluate, state = inputs.evaluation_step(), inputs.state()
    batch = jax.tree.map(lambda array: array[0], inputs.batches(0))
    compiled = evaluate(state, batch, inputs.key)
    eager = inspect.unwrap(evaluate)(state, batch, inputs.key)
    assert_trees_close(compiled, eager)


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


def updates_for(config: TrainingConfig, gradients: np.ndarray, weight: float = 0.0) -> np.ndarray:
    """[S, D] updates that the optimizer makes of [S, D] gradients at constant weights."""
    optimizer = make_optimizer(config)
    params = jnp.full(gradients.shape[1], weight)
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


def test_gradients_are_clipped_before_adam_and_weights_decay():
    config = TrainingConfig(
        num_steps=100,
        warmup_steps=0,
        learning_rate=0.1,
        final_learning_rate=0.1,
        gradient_clip=2.0,
        weight_decay=0.25,
    )
    gradients = np.random.default_rng(0).normal(size=(6, 4))
    gradients[3] *= 1e6  # one outlier; without clipping it would rule the moments from then on
    updates = updates_for(config, gradients, weight=3.0)

    # Adam by hand, with its usual constants: Kingma and Ba, arXiv:1412.6980, algorithm 1.
    first, second = np.zeros(4), np.zeros(4)
    for count, (gradient, update) in enumerate(zip(gradients, updates, strict=True), start=1):
        clipped = gradient * min(1.0, 2.0 / np.linalg.norm(gradient))
        first = 0.9 * first + 0.1 * clipped
        second = 0.999 * second + 0.001 * clipped**2
        adam = (first / (1 - 0.9**count)) / (np.sqrt(second / (1 - 0.999**count)) + 1e-8)
        np.testing.assert_allclose(update, -0.1 * (adam + 0.25 * 3.0), atol=1e-5)


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
