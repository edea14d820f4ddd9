"""A run made without training, for the tests of its pictures: checkpoints of the tiny model."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from pymatgen.core import Element, Lattice, Structure

from crystal_diffusion_jax import config as config_module
from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.config import ANCESTRAL
from crystal_diffusion_jax.oracles.predict import Predictions
from crystal_diffusion_jax.request import Request
from crystal_diffusion_jax.structures.sampled_crystals import SampledCrystals
from crystal_diffusion_jax.trained_model import TrainedModel
from crystal_diffusion_jax.training.checkpoints import Checkpoints
from crystal_diffusion_jax.training.optimizer import make_optimizer
from crystal_diffusion_jax.training.step import initial_state
from tests import make_tiny_model

STEPS = (10, 20)


def scaled(params: np.ndarray, step: int) -> np.ndarray:
    """The averaged weights at a step."""
    return params * np.float32(1 - step / 10_000)


def model_with_oracle() -> TrainedModel:
    """The tiny model, as if trained on data that have an oracle."""
    model = trained_model.load(make_tiny_model.FOLDER)
    data = dataclasses.replace(model.config.data, name="perov5", properties=("heat_ref",))
    statistics = dataclasses.replace(model.statistics, property_names=("heat_ref",))
    config = dataclasses.replace(model.config, data=data)
    return dataclasses.replace(model, config=config, statistics=statistics)


def write(workdir: Path) -> np.ndarray:
    """Checkpoints, log, config and model of a run; returns the weights that `scaled` takes."""
    model = model_with_oracle()
    params, unflatten = ravel_pytree(jax.tree.map(jnp.asarray, model.params))
    state = initial_state(params, make_optimizer(model.config.training, unflatten))
    rows = []
    workdir.mkdir(parents=True)
    with Checkpoints(workdir / "checkpoints", model.config.training.keep_last) as checkpoints:
        for step in STEPS:
            ema = jnp.asarray(scaled(np.asarray(params), step))
            checkpoints.save(
                step, dataclasses.replace(state, ema_params=ema), {"loss": 3.0 - step / 20}
            )
            rows.append({"kind": "train", "step": step, "loss": 4.0, "seconds": 12.0 * step})
            rows.append({"kind": "validation", "step": step, "loss": 3.0 - step / 20})
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (workdir / "config.json").write_text(json.dumps(config_module.to_dict(model.config)))
    trained_model.save(dataclasses.replace(model, params=unflatten(ema)), workdir / "model")
    return np.asarray(params)


def perovskite(a: str, b: str, edge: float) -> Structure:
    """A cubic perovskite."""
    sites: list[list[float]] = [
        [0, 0, 0],
        [0.5, 0.5, 0.5],
        [0.5, 0.5, 0],
        [0.5, 0, 0.5],
        [0, 0.5, 0.5],
    ]
    return Structure(Lattice.cubic(edge), [a, b, "O", "O", "O"], sites)


def sampled(num: int, crystals: dict[int, Structure], rejected: dict[int, str]) -> SampledCrystals:
    """Crystals as `Model.sample` returns them, by index."""
    request = Request("m", "", {"heat_ref": (0.0, 0.0)}, num, 0, 0.0, ANCESTRAL, 50, 1e-6, 0)
    return SampledCrystals(tuple(crystals.values()), tuple(crystals), rejected, request)


def predict(structures: list[Structure], oracle: str, progress: bool = True) -> Predictions:
    """Stands in for the oracle: the cell's edge in nm; no prediction for crystals with oxygen."""
    assert oracle == "perov5"
    values = [
        np.nan if Element("O") in structure.composition else structure.volume ** (1 / 3) / 10
        for structure in structures
    ]
    failures = {i: "oxygen" for i, value in enumerate(values) if np.isnan(value)}
    return Predictions(np.array(values, dtype=float), failures)
