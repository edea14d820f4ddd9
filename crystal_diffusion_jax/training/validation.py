"""The loss of the averaged weights on the validation split."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from crystal_diffusion_jax.data.batches import Batch
from crystal_diffusion_jax.runtime import devices
from crystal_diffusion_jax.training.step import EvaluationStep, TrainState
from crystal_diffusion_jax.training.training_data import VALIDATION_DRAWS


def validate(
    evaluation_step: EvaluationStep,
    state: TrainState,
    validation: list[Batch],
    mesh: Mesh,
    key: jax.Array,
    preempted: Callable[[], bool],
) -> dict[str, float] | None:
    """Mean losses of the validation split, always with the same noise; None if preempted.

    Args:
      evaluation_step: the jitted loss.
      state: whose averaged weights are validated.
      validation: this process's part of each batch.
      mesh: the devices.
      key: PRNG key.
      preempted: whether to stop.
    """
    losses: list[dict[str, jax.Array]] = []
    weights = []
    for index, batch in enumerate(validation):
        rows = devices.from_local_rows(batch, mesh)
        for draw in range(VALIDATION_DRAWS):
            if preempted():
                return None
            fixed = jax.random.fold_in(jax.random.fold_in(key, index), draw)
            jax.block_until_ready(losses[-1:])  # a long queue would delay preemption
            losses.append(devices.wait_on_cpu(evaluation_step(state, tuple(rows), fixed)))
            weights.append(devices.wait_on_cpu(rows.weight.sum()))
    losses, weights = jax.device_get((losses, weights))
    return {n: float(np.average([row[n] for row in losses], weights=weights)) for n in losses[0]}
