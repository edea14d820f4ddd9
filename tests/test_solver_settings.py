"""The settings of the sampler that a request does not name: the model's, the paper's, others'."""

import dataclasses
from typing import Any

import pytest

from crystal_diffusion_jax.config import (
    ANCESTRAL,
    SECOND_ORDER,
    ExperimentConfig,
    LossConfig,
    NoiseConfig,
    SamplingConfig,
)
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.request import PAPER
from crystal_diffusion_jax.sampling.solver_settings import SolverSettings, solver_settings

PLAIN = SamplingConfig()
FAST = SamplingConfig(solver=SECOND_ORDER, num_steps=40, averaging_rounds=2)
THOROUGH = SamplingConfig(corrector_step_size=1e-5, renoising_steps=5, averaging_rounds=4)
PLACING = SamplingConfig(start_time=30)
GIVEN = LossConfig(species_given=0.5)


def settings(sampling: SamplingConfig, predicts: bool = False, **asked: Any) -> SolverSettings:
    return solver_settings(ExperimentConfig(sampling=sampling, loss=GIVEN), predicts, **asked)


@pytest.mark.parametrize(
    ("sampling", "asked", "expected"),
    [
        (PLAIN, {}, (ANCESTRAL, 1000, 1e-6, 0, 0, 0)),
        (PLAIN, {"solver": SECOND_ORDER}, (SECOND_ORDER, 50, 8e-6, 0, 0, 0)),
        (FAST, {}, (SECOND_ORDER, 40, 8e-6, 0, 2, 0)),
        (FAST, {"solver": SECOND_ORDER}, (SECOND_ORDER, 40, 8e-6, 0, 2, 0)),
        (FAST, {"num_steps": 7}, (SECOND_ORDER, 7, 8e-6, 0, 2, 0)),
        (FAST, {"solver": ANCESTRAL}, (ANCESTRAL, 1000, 1e-6, 0, 2, 0)),
        (FAST, {"sampler": PAPER}, (ANCESTRAL, 1000, 1e-6, 0, 0, 0)),
        (THOROUGH, {}, (ANCESTRAL, 1000, 0.0, 5, 4, 0)),
        (THOROUGH, {"solver": SECOND_ORDER}, (SECOND_ORDER, 50, 1e-5, 0, 4, 0)),
        (THOROUGH, {"sampler": PAPER}, (ANCESTRAL, 1000, 1e-5, 0, 0, 0)),
        (THOROUGH, {"sampler": PAPER, "num_steps": 20}, (ANCESTRAL, 20, 1e-5, 0, 0, 0)),
        (THOROUGH, {"sampler": PAPER, "solver": SECOND_ORDER}, (SECOND_ORDER, 50, 1e-5, 0, 0, 0)),
        (THOROUGH, {"sampler": PAPER, "averaging_rounds": 1}, (ANCESTRAL, 1000, 1e-5, 0, 1, 0)),
        (PLAIN, {"start": "template"}, (ANCESTRAL, 1000, 1e-6, 0, 0, 100)),
        (PLAIN, {"start": "template:1000"}, (ANCESTRAL, 1000, 1e-6, 0, 0, 1000)),
        (PLACING, {}, (ANCESTRAL, 1000, 1e-6, 0, 0, 30)),
        (PLACING, {"start": "template"}, (ANCESTRAL, 1000, 1e-6, 0, 0, 30)),
        (PLACING, {"start": "noise"}, (ANCESTRAL, 1000, 1e-6, 0, 0, 0)),
        (PLACING, {"sampler": PAPER}, (ANCESTRAL, 1000, 1e-6, 0, 0, 0)),
        (PLACING, {"sampler": PAPER, "start": "template:8"}, (ANCESTRAL, 1000, 1e-6, 0, 0, 8)),
    ],
)
def test_what_is_not_asked_for_is_the_models_or_the_papers(
    sampling: SamplingConfig, asked: dict[str, Any], expected: tuple[Any, ...]
):
    assert dataclasses.astuple(settings(sampling, **asked)) == expected


@pytest.mark.parametrize(
    ("sampling", "asked", "expected"),
    [
        (PLAIN, {}, (SECOND_ORDER, 100, 0.0, 5, 0, 0)),
        (FAST, {}, (SECOND_ORDER, 100, 0.0, 5, 2, 0)),
        (THOROUGH, {"solver": ANCESTRAL}, (ANCESTRAL, 1000, 0.0, 5, 4, 0)),
        (THOROUGH, {"sampler": PAPER}, (ANCESTRAL, 1000, 1e-5, 0, 0, 0)),
        (PLACING, {}, (SECOND_ORDER, 100, 0.0, 5, 0, 30)),
    ],
)
def test_given_compositions_have_settings_of_their_own(
    sampling: SamplingConfig, asked: dict[str, Any], expected: tuple[Any, ...]
):
    assert dataclasses.astuple(settings(sampling, predicts=True, **asked)) == expected


def test_a_model_of_few_times_takes_no_more_steps_than_these():
    config = ExperimentConfig(noise=NoiseConfig(num_steps=30), sampling=FAST)
    assert solver_settings(config, False).num_steps == 30


def test_an_unknown_sampler_is_refused():
    with pytest.raises(UserError, match="--sampler=best is unknown; paper is the only one"):
        settings(PLAIN, sampler="best")


def test_an_unknown_solver_is_refused():
    with pytest.raises(UserError, match="--solver=second-order is unknown; it is ancestral or"):
        settings(PLAIN, solver="second-order")


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("solver", "euler", r"solver must be one of \('ancestral', 'second_order'\), not 'euler'"),
        ("num_steps", -1, "num_steps must be at least 0, not -1"),
    ],
)
def test_a_config_refuses_what_no_sampler_has(field: str, value: Any, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        SamplingConfig(**{field: value})
