"""A run that looks like one of Perov-5 and takes no training, for the tests of its pictures."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from pymatgen.core import Element, Structure

from crystal_diffusion_jax import config as config_module
from crystal_diffusion_jax import model_folder
from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.data.batches import Batches
from crystal_diffusion_jax.judge.predict import Predictions
from crystal_diffusion_jax.model_folder import TrainedModel
from crystal_diffusion_jax.training.checkpoint import Checkpoints
from crystal_diffusion_jax.training.optimizer import make_optimizer
from crystal_diffusion_jax.training.state import initial_params, initial_state
from tests import smoke_run

STEPS = (10, 20)


def config() -> ExperimentConfig:
    """That of the smoke run, under the name of a data set that has a judge."""
    data = dataclasses.replace(smoke_run.CONFIG.data, name="perov5", properties=("heat_ref",))
    return dataclasses.replace(smoke_run.CONFIG, data=data)


def scaled(params: np.ndarray, step: int) -> np.ndarray:
    """The averaged weights at a step."""
    return params * np.float32(1 + step / 100)


def write(workdir: Path) -> np.ndarray:
    """Checkpoints, log, config and model of a run; returns the weights that `scaled` takes."""
    statistics = dataclasses.replace(smoke_run.statistics(), property_names=("heat_ref",))
    training = smoke_run.CONFIG.training
    batches = Batches(smoke_run.splits()["train"], statistics, training.batch_size, 0, 1)
    batch = jax.tree.map(lambda array: array[0], batches.group(0))
    params, unflatten = initial_params(smoke_run.denoiser(), jax.random.key(1), batch)
    state = initial_state(params, make_optimizer(training, unflatten))
    rows = []
    workdir.mkdir(parents=True)
    with Checkpoints(workdir / "checkpoints", config()) as checkpoints:
        for step in STEPS:
            ema = jnp.asarray(scaled(np.asarray(params), step))
            checkpoints.save(step, state.replace(ema_params=ema), {"loss": 3.0 - step / 20})
            rows.append({"kind": "train", "step": step, "loss": 4.0, "seconds": 12.0 * step})
            rows.append({"kind": "validation", "step": step, "loss": 3.0 - step / 20})
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (workdir / "config.json").write_text(json.dumps(config_module.to_dict(config())))
    model = TrainedModel(unflatten(ema), config(), statistics, {"steps": STEPS[-1]})
    model_folder.save(model, workdir / "model")
    return np.asarray(params)


def judge(structures: list[Structure], oracle: str, progress: bool = True) -> Predictions:
    """Speaks in the place of the network: the cell's edge in nm; none of crystals with oxygen."""
    assert oracle == "perov5"
    values = [
        np.nan if Element("O") in structure.composition else structure.volume ** (1 / 3) / 10
        for structure in structures
    ]
    failures = {i: "oxygen" for i, value in enumerate(values) if np.isnan(value)}
    return Predictions(np.array(values, dtype=float), failures)
