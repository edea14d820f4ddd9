"""Structures per second of training steps: as they are, pair by pair, and naive.

Shares of the peak need a number of floating-point operations. `needed_flop` is the smallest that is
known to give the gradient of the loss, whatever form computes it: what a form does in excess does
not raise its share.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import jax
from jax.sharding import Mesh

from benchmarks import naive, plain_attention
from benchmarks.speed import NUM_SPECIES, Steps, random_batch, training_steps
from benchmarks.timing import interleaved, rate
from crystal_diffusion_jax import denoising
from crystal_diffusion_jax.config import MUON, ExperimentConfig
from crystal_diffusion_jax.data.batches import Batch
from crystal_diffusion_jax.data.buckets import batch_sizes
from crystal_diffusion_jax.diffusion.schedules import noise_schedule
from crystal_diffusion_jax.models import embeddings, products
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.training.loss import NoisyBatch, diffusion_loss, noise_batch


def _muon(config: ExperimentConfig, batch: Batch, mesh: Mesh, num_steps: int) -> Steps:
    training = dataclasses.replace(config.training, optimizer=MUON)
    return training_steps(dataclasses.replace(config, training=training), batch, mesh, num_steps)


def _bfloat16(config: ExperimentConfig, batch: Batch, mesh: Mesh, num_steps: int) -> Steps:
    model = dataclasses.replace(config.model, dtype="bfloat16")
    return training_steps(dataclasses.replace(config, model=model), batch, mesh, num_steps)


def _plain(config: ExperimentConfig, batch: Batch, mesh: Mesh, num_steps: int) -> Steps:
    with plain_attention.used():
        return training_steps(config, batch, mesh, num_steps)


EFFICIENT = "efficient"
FORMS: dict[str, Callable[[ExperimentConfig, Batch, Mesh, int], Steps]] = {
    EFFICIENT: training_steps,
    "with Muon": _muon,
    "bfloat16": _bfloat16,
    "plain": _plain,
    "naive": naive.training_steps,
}


def with_width(config: ExperimentConfig, width: int) -> ExperimentConfig:
    """The experiment with another width of atoms and pairs."""
    model = dataclasses.replace(config.model, width=width, pair_hidden_width=width)
    return dataclasses.replace(config, model=model)


def flop(config: ExperimentConfig, batch: Batch) -> float:
    """Floating-point operations per crystal of the gradient of the loss, by XLA's own count.

    It is that of the program before XLA optimises it, without evaluations that fusion repeats.
    """
    denoiser = Denoiser(config.model, num_species=NUM_SPECIES)
    schedule = noise_schedule(config.noise)

    def noised(key: jax.Array, batch: tuple[Any, Any, Any]) -> NoisyBatch:
        return noise_batch(key, *batch, NUM_SPECIES, schedule, 0.0)

    noisy = jax.eval_shape(noised, jax.random.key(0), tuple(batch))
    inputs = (noisy.crystals, noisy.t, noisy.condition)

    def loss(params: Any, noisy: NoisyBatch) -> jax.Array:
        denoise = denoising.bind(denoiser, params)
        mean_free = config.model.mean_free_score
        return diffusion_loss(denoise, noisy, schedule, config.loss, mean_free)[0]

    # The copies that `stored` makes are products with the identity, hence no work.
    # Without scans, whose bodies XLA counts once; on the CPU, the only platform where JAX counts.
    with (
        patch.object(embeddings, "stored", lambda array: array),
        jax.default_device(jax.devices("cpu")[0]),
    ):
        params = jax.eval_shape(denoiser.init, jax.random.key(0), *inputs)["params"]
        cost: Any = jax.jit(jax.grad(loss)).lower(params, noisy).cost_analysis()
    return float(cost["flops"]) / len(batch.weight)


def needed_flop(config: ExperimentConfig, batch: Batch) -> float:
    """The smallest `flop` of the forms that give the same gradient."""
    # Gradients that are written out have sums as products with ones, which count twice.
    derived: dict[str, Any] = {
        name: f.fun for name, f in vars(products).items() if isinstance(f, jax.custom_vjp)
    }
    with patch.multiple(products, **derived):
        efficient = flop(config, batch)
    with plain_attention.used():
        return min(efficient, flop(config, batch))


def training_speed(
    config: ExperimentConfig,
    num_atoms: int,
    mesh: Mesh,
    forms: Sequence[str] = (EFFICIENT,),
    call_flop: float = math.inf,
) -> dict[str, Any]:
    """Structures/s of some `FORMS`, which take turns, and the operations that a structure needs.

    Args:
      config: the experiment; its batch size is that of crystals of five atoms.
      num_atoms: atoms per crystal.
      mesh: the devices.
      forms: names of forms.
      call_flop: operations of a call that is timed, so that it takes neither too short nor too
        long; between one step and as many as training has in a program.
    """
    # As the loop would choose it next to a bucket of crystals of five atoms.
    size = batch_sizes((5, num_atoms), (1, 0), config.training.batch_size)[1]
    size = -(-size // mesh.size) * mesh.size
    batch = random_batch(size, num_atoms)
    # Counted on one crystal for each device: they all take as many.
    needed = needed_flop(config, random_batch(mesh.size, num_atoms))
    most = config.training.steps_per_call
    num_steps = most if call_flop == math.inf else int(call_flop / (needed * size))
    num_steps = min(max(num_steps, 1), most)
    steps = {form: FORMS[form](config, batch, mesh, num_steps) for form in forms}
    seconds = interleaved({form: steps[form].call for form in forms})
    return {
        "width": config.model.width,
        "num_atoms": num_atoms,
        "batch_size": size,
        "parameters": steps[forms[0]].num_parameters,
        "needed_flop": round(needed),
        "forms": {
            form: {
                "structures_per_second": rate(size * num_steps, seconds[form]),
                "compile_seconds": round(steps[form].compile_seconds, 1),
            }
            for form in forms
        },
    }


def share_of_peak(row: dict[str, Any], form: str, tflops: float) -> float:
    """Needed operations per second of a form over those of matrix products."""
    structures = row["forms"][form]["structures_per_second"]["median"]
    return float(1e-12 * row["needed_flop"] * structures / tflops)
