"""Training and sampling repeat: bit by bit after a restart, to rounding on more devices."""

import os
import subprocess
import sys
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crystal_diffusion_jax import denoising
from crystal_diffusion_jax.models.denoiser import Condition
from tests.smoke_run import StepInputs, denoiser

pytestmark = pytest.mark.faults

# Each in a process of its own; two of them are alike.
NUM_DEVICES = {"1": 1, "1 again": 1, "2": 2, "8": 8}
TOLERANCE = 1e-5

PROGRAM = """
import sys
import jax, numpy as np
from crystal_diffusion_jax.models.denoiser import Condition
from crystal_diffusion_jax.sampling.sampler import make_sampler
from tests.smoke_run import CONFIG, StepInputs, denoiser

inputs = StepInputs()
assert inputs.mesh.size == int(sys.argv[2])
state, train, losses = inputs.state(), inputs.train_steps(), []
params = jax.device_get(inputs.named(state.params))  # the same on any number of devices
for group in range(2):
    state, metrics = train(state, inputs.batches(group), inputs.key)
    losses.append(metrics["loss"])

sample = make_sampler(denoiser(), CONFIG.noise, 20, True, inputs.mesh)
condition = Condition(values=np.full((8, 1), 0.5, np.float32), present=np.ones((8, 1), bool))
keys = jax.vmap(lambda index: jax.random.fold_in(inputs.key, index))(np.arange(8))
mask = np.arange(5) < np.array([5, 5, 5, 5, 5, 5, 4, 2])[:, None]
allowed = np.ones(denoiser().num_species, bool)
crystals = sample(params, keys, mask, condition, 1.0, CONFIG.sampling.gamma, allowed)
np.savez(sys.argv[1], losses=losses, weights=state.params, average=state.ema_params,
         start=inputs.state().params, lattice=crystals.lattice,
         frac_coords=crystals.frac_coords, species=crystals.species)
"""


def is_idle(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Which weights have no effect, so that their gradients are rounding and nothing else.

    Adam makes steps of full length of a gradient however small. What is the same in the keys of all
    atoms of a crystal drops out of the softmax, and what is the same in the scores of all its atoms
    out of the mean-free score.
    """
    idle = np.zeros(shape, bool)
    if name.endswith(("qkv/bias", "qkv_condition/kernel")):
        idle[..., shape[-1] // 3 : 2 * shape[-1] // 3] = True
    return idle | (name == "score_head/Dense_1/bias")


def test_idle_weights_have_no_effect():
    inputs = StepInputs()
    named = flax.traverse_util.flatten_dict(inputs.named(inputs.state().params), sep="/")
    idle = {name: is_idle(name, leaf.shape) for name, leaf in named.items()}
    assert sum(map(np.sum, idle.values())) == 16 + 16 * 16 + 3
    crystals, properties, _ = jax.tree.map(lambda leaf: leaf[0, :4], inputs.batches(0))
    t = jnp.array([1, 10, 100, 1000])
    condition = Condition(values=properties, present=jnp.ones(properties.shape, bool))

    def outputs(weights: dict[str, np.ndarray]) -> list[np.ndarray]:
        nested = flax.traverse_util.unflatten_dict(weights, sep="/")
        return jax.tree.leaves(denoising.bind(denoiser(), nested)(crystals, t, condition))

    expected = outputs(named)
    rng = np.random.default_rng(0)
    drawn = {name: rng.normal(size=leaf.shape).astype(np.float32) for name, leaf in named.items()}
    for chosen, same in ((idle, True), ({n: ~mask for n, mask in idle.items()}, False)):
        moved = outputs({name: leaf + drawn[name] * chosen[name] for name, leaf in named.items()})
        close = [np.allclose(*pair, atol=1e-4) for pair in zip(moved, expected, strict=True)]
        assert all(close) if same else not any(close)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, dict[str, np.ndarray]]:
    """Losses and weights of ten steps and eight crystals, by `NUM_DEVICES`."""
    folder = tmp_path_factory.mktemp("results")
    found = {}
    for name, count in NUM_DEVICES.items():
        # Programs that are compiled in seconds; the sums over devices are those of any other.
        flags = f"--xla_force_host_platform_device_count={count} --xla_backend_optimization_level=0"
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(folder / f"{name}.npz"), str(count)],
            cwd=Path(__file__).parent.parent,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        with np.load(folder / f"{name}.npz", allow_pickle=False) as stored:
            found[name] = dict(stored)
    return found


def test_the_same_seed_gives_the_same_bytes_in_another_process(results):
    for name, array in results["1"].items():
        assert array.tobytes() == results["1 again"][name].tobytes(), name


def test_the_weights_have_moved_and_the_crystals_differ(results):
    moved = np.abs(results["1"]["weights"] - results["1"]["start"])
    assert np.median(moved) > 10 * TOLERANCE
    assert len(np.unique(results["1"]["frac_coords"][:, 0], axis=0)) == 8


@pytest.mark.parametrize("devices", ["2", "8"])
def test_more_devices_give_the_same_training_and_crystals_to_rounding(results, devices):
    one, more, named = results["1"], results[devices], StepInputs().named
    np.testing.assert_array_equal(more["start"], one["start"])
    np.testing.assert_allclose(more["losses"], one["losses"], rtol=TOLERANCE)
    for vector in ("weights", "average"):
        apart = flax.traverse_util.flatten_dict(named(more[vector] - one[vector]), sep="/")
        for name, leaf in apart.items():
            assert np.abs(leaf)[~is_idle(name, leaf.shape)].max(initial=0.0) < TOLERANCE, name
    np.testing.assert_array_equal(more["species"], one["species"])
    np.testing.assert_allclose(more["lattice"], one["lattice"], rtol=TOLERANCE, atol=TOLERANCE)
    moved = more["frac_coords"] - one["frac_coords"]
    assert np.abs(moved - np.round(moved)).max() < TOLERANCE
