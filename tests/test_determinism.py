"""Training and sampling repeat: bit by bit after a restart, to rounding on more devices."""

import os

import numpy as np
import pytest

from tests.child import FEWER_KERNELS, on_devices

pytestmark = pytest.mark.slow

# Each in a process of its own; two of them are alike.
NUM_DEVICES = {"1": 1, "1 again": 1, "8": 8}
TOLERANCE = 1e-5

# What rounding does to the weights must not reach the later losses, hence the learning rate; and
# what it does to a crystal grows from step to step, hence two steps alone.
PROGRAM = """
import sys
import jax, numpy as np, optax
from crystal_diffusion_jax.models.denoiser import Condition
from crystal_diffusion_jax.sampling.sampler import make_sampler
from tests.smoke_run import CONFIG, StepInputs, denoiser

inputs = StepInputs(learning_rate=1e-5)
assert inputs.mesh.size == int(sys.argv[2])
state, train, losses = inputs.state(), inputs.train_steps(), []
params = jax.device_get(inputs.named(state.params))  # the same on any number of devices
for group in range(2):
    state, metrics = train(state, inputs.batches(group), inputs.key)
    losses.append(metrics["loss"])

sample = make_sampler(denoiser(), CONFIG.noise, 2, True, inputs.mesh)
condition = Condition(values=np.full((8, 1), 0.5, np.float32), present=np.ones((8, 1), bool))
keys = jax.vmap(lambda index: jax.random.fold_in(inputs.key, index))(np.arange(8))
mask = np.arange(5) < np.array([5, 5, 5, 5, 5, 5, 4, 2])[:, None]
allowed = np.ones(denoiser().num_species, bool)
crystals = sample(params, keys, mask, condition, 1.0, CONFIG.sampling.corrector_step_size, allowed)
np.savez(sys.argv[1], losses=losses, weights=state.params, average=state.ema_params,
         start=inputs.state().params, gradient=optax.tree.get(state.opt_state, "mu"),
         lattice=crystals.lattice, frac_coords=crystals.frac_coords, species=crystals.species)
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, dict[str, np.ndarray]]:
    """Losses, mean gradient and weights of ten steps and eight crystals, by `NUM_DEVICES`."""
    folder = tmp_path_factory.mktemp("results")
    found = {}
    flags = os.environ.get("XLA_FLAGS", "").replace(FEWER_KERNELS, "")
    with pytest.MonkeyPatch.context() as patch:  # as users compile
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "false")
        patch.setenv("XLA_FLAGS", flags)
        for name, count in NUM_DEVICES.items():
            on_devices(count, PROGRAM, str(folder / f"{name}.npz"), str(count))
            with np.load(folder / f"{name}.npz", allow_pickle=False) as stored:
                found[name] = dict(stored)
    return found


def test_the_same_seed_gives_the_same_bytes_in_another_process(results):
    for name, array in results["1"].items():
        assert array.tobytes() == results["1 again"][name].tobytes(), name


def test_the_weights_have_moved_and_the_crystals_differ(results):
    moved = np.abs(results["1"]["weights"] - results["1"]["start"])
    assert np.median(moved) > 1e-6  # of at most 1e-4, ten steps of the learning rate
    assert len(np.unique(results["1"]["frac_coords"][:, 0], axis=0)) == 8


def test_more_devices_give_the_same_training_and_crystals_to_rounding(results):
    one, more = results["1"], results["8"]
    np.testing.assert_array_equal(more["start"], one["start"])
    np.testing.assert_allclose(more["losses"], one["losses"], rtol=TOLERANCE)
    # Not the weights: Adam makes steps of full length of a gradient that is rounding alone.
    size = np.abs(one["gradient"]).max()
    np.testing.assert_allclose(more["gradient"], one["gradient"], atol=TOLERANCE * size)
    # Of 80 draws of a species one is decided by less than the rounding of the logits, which is
    # 1e-6, in one of ten thousand seeds.
    np.testing.assert_array_equal(more["species"], one["species"])
    size = np.abs(one["lattice"]).max()
    np.testing.assert_allclose(more["lattice"], one["lattice"], atol=TOLERANCE * size)
    moved = more["frac_coords"] - one["frac_coords"]
    assert np.abs(moved - np.round(moved)).max() < TOLERANCE
