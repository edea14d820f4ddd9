"""Training that starts from a trained model: which weights it takes, and that it resumes."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from crystal_diffusion_jax import denoising, trained_model
from crystal_diffusion_jax.config import DenoiserConfig, ExperimentConfig
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.data.arrays import DatasetStatistics
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.models.embeddings import Condition
from crystal_diffusion_jax.trained_model import TrainedModel
from crystal_diffusion_jax.training import loop
from crystal_diffusion_jax.training.checkpoints import Checkpoints
from crystal_diffusion_jax.training.init_from import load_initial_model, warm_start
from crystal_diffusion_jax.training.loop import train
from crystal_diffusion_jax.training.step import TrainState
from tests import make_tiny_model
from tests.smoke_run import (
    CONFIG,
    drawn_params,
    splits,
    statistics,
)

NETWORK = DenoiserConfig(width=16, pair_hidden_width=16, num_blocks=1, num_heads=2)
ELEMENTS = tuple(range(3, 15))


def with_elements(vocabulary: tuple[int, ...]) -> DatasetStatistics:
    return dataclasses.replace(statistics(), vocabulary=vocabulary)


def weights(network: DenoiserConfig, data: DatasetStatistics, seed: int) -> Any:
    """Random ones; the network's own take long to compile."""
    network_of_data = denoising.build(ExperimentConfig(model=network), data)
    return drawn_params(network_of_data, seed=seed, num_properties=len(data.property_names))


def by_name(params: Any) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(params, sep="/")


def shipped(folder: Path, network: DenoiserConfig, data: DatasetStatistics) -> dict[str, Any]:
    """Writes a model of random weights; returns them by name."""
    params = weights(network, data, seed=1)
    config = dataclasses.replace(CONFIG, model=network)
    trained_model.save(TrainedModel(params, config, data, {}), folder)
    return by_name(params)


def started(
    folder: Path, network: DenoiserConfig, data: DatasetStatistics
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fresh weights by name, and those that start from the model in `folder`."""
    fresh, unflatten = ravel_pytree(weights(network, data, seed=2))
    found = unflatten(warm_start(fresh, unflatten, data, trained_model.load(folder)))
    return by_name(unflatten(fresh)), by_name(found)


def test_the_same_network_takes_all_weights(tmp_path):
    data = with_elements(ELEMENTS)
    expected = shipped(tmp_path / "m", NETWORK, data)
    _, found = started(tmp_path / "m", NETWORK, data)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_weights_that_the_model_lacks_are_fresh(tmp_path):
    data = with_elements(ELEMENTS)
    expected = shipped(tmp_path / "m", NETWORK, data)
    larger = dataclasses.replace(NETWORK, num_rank_features=3)
    fresh, found = started(tmp_path / "m", larger, data)
    assert found.keys() - expected.keys() == {"property/by_rank"}
    for name, leaf in found.items():
        np.testing.assert_array_equal(leaf, expected.get(name, fresh[name]))


@pytest.mark.parametrize(("before", "after"), [("cdi", "cds"), ("cds", "cdi")])
def test_another_conditioning_takes_all_but_the_layers_where_the_condition_enters(
    tmp_path, before, after
):
    data = with_elements(ELEMENTS)
    networks = [dataclasses.replace(NETWORK, conditioning=name) for name in (before, after)]
    expected = shipped(tmp_path / "m", networks[0], data)
    config = _starting_from(str(tmp_path / "m"))
    load_initial_model(dataclasses.replace(config, model=networks[1]))
    fresh, found = started(tmp_path / "m", networks[1], data)
    enters = {"cdi": "input/", "cds": "/qkv_condition/"}
    for name, leaf in found.items():
        source = fresh if enters[after] in name else expected
        np.testing.assert_array_equal(leaf, source[name], err_msg=name)
    assert {name for name in expected.keys() - found.keys() if enters[before] not in name} == set()
    assert any(enters[after] in name for name in found.keys() - expected.keys())


def test_elements_are_matched_by_atomic_number_and_new_ones_are_fresh(tmp_path):
    expected = shipped(tmp_path / "m", NETWORK, with_elements((1, 6, 8, 14, 26)))
    fresh, found = started(tmp_path / "m", NETWORK, with_elements((6, 7, 26)))
    rows, old = found["species/Dense_0/kernel"], expected["species/Dense_0/kernel"]
    np.testing.assert_array_equal(rows[0], old[1])
    np.testing.assert_array_equal(rows[1], fresh["species/Dense_0/kernel"][1])
    np.testing.assert_array_equal(rows[2], old[4])
    columns, old = found["species_head/Dense_1/kernel"], expected["species_head/Dense_1/kernel"]
    np.testing.assert_array_equal(columns[:, 0], old[:, 1])
    np.testing.assert_array_equal(columns[:, 1], fresh["species_head/Dense_1/kernel"][:, 1])
    np.testing.assert_array_equal(columns[:, 2], old[:, 4])
    assert found["species_head/Dense_1/bias"].shape == (3,)
    for name in set(found) - {"species_head/Dense_1/kernel", "species/Dense_0/kernel"}:
        if name != "species_head/Dense_1/bias":
            np.testing.assert_array_equal(found[name], expected[name])


def outputs(
    network: DenoiserConfig, data: DatasetStatistics, params: Any, values: Any, *present: bool
) -> list[dict[str, Any]]:
    """What the network makes of two noisy crystals of the elements 6 and 26.

    Once for each of `present`, with all properties or none.
    """
    species = [data.vocabulary.index(number) for number in (6, 26, 26, 6)]
    rng = np.random.default_rng(0)
    crystals = Crystals(
        lattice=jnp.asarray(rng.normal(size=(2, 3, 3)), jnp.float32),
        frac_coords=jnp.asarray(rng.random((2, 4, 3)), jnp.float32),
        species=jnp.asarray([species, species[::-1]]),
        mask=jnp.ones((2, 4), bool),
    )
    z = (np.array(values) - data.property_mean) / data.property_std
    apply = jax.jit(denoising.build(ExperimentConfig(model=network), data).apply)
    found = []
    for told in present:
        condition = Condition(jnp.asarray(z, jnp.float32), jnp.full(np.shape(z), told))
        lattice, score, logits = apply({"params": params}, crystals, jnp.array([5, 40]), condition)
        elements = {str(n): logits[..., data.vocabulary.index(n)] for n in (6, 26)}
        found.append({"lattice": lattice, "score": score} | elements)
    return found


def two_properties(data: DatasetStatistics, *names: str) -> DatasetStatistics:
    """The same, with two properties of these names."""
    both = {
        field: 2 * getattr(data, field)
        for field in ("property_min", "property_max", "property_quantiles", "num_atoms_by_property")
    }
    return dataclasses.replace(
        data, property_names=names, property_mean=(0.7, -1.5), property_std=(2.5, 0.2), **both
    )


@pytest.mark.parametrize("conditioning", ["cdi", "cds"])
@pytest.mark.parametrize("ranks", [0, 3])
def test_with_new_properties_the_first_step_computes_the_unconditional_branch(
    tmp_path, conditioning, ranks
):
    network = dataclasses.replace(NETWORK, conditioning=conditioning, num_rank_features=ranks)
    old, new = with_elements((1, 6, 8, 14, 26)), with_elements((6, 26))
    new = two_properties(new, "band_gap", "density")
    params = weights(network, old, seed=1)
    config = dataclasses.replace(CONFIG, model=network)
    trained_model.save(TrainedModel(params, config, old, {}), tmp_path / "m")
    vector, unflatten = ravel_pytree(weights(network, new, seed=2))
    started = unflatten(warm_start(vector, unflatten, new, trained_model.load(tmp_path / "m")))
    (expected,) = outputs(network, old, params, [[0.0], [0.0]], False)
    for found in outputs(network, new, started, [[3.0, -1.0], [-4.0, 2.0]], True, False):
        for name, array in found.items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_a_known_property_keeps_its_meaning_beside_a_new_one(tmp_path):
    old = with_elements((6, 26))
    new = two_properties(old, "density", *old.property_names)
    params = shipped_params(tmp_path / "m", old)
    vector, unflatten = ravel_pytree(weights(NETWORK, new, seed=2))
    started = unflatten(warm_start(vector, unflatten, new, trained_model.load(tmp_path / "m")))
    # The same values in the property's own unit, which are other z-scores.
    found = outputs(NETWORK, new, started, [[7.0, 0.9], [-8.0, 1.1]], True, False)
    expected = outputs(NETWORK, old, params, [[0.9], [1.1]], True, False)
    for one, other in zip(found, expected, strict=True):
        for name, array in one.items():
            np.testing.assert_allclose(array, other[name], rtol=1e-4, atol=1e-4, err_msg=name)


CLASSES = ("metal", "oxide", "salt")


@pytest.mark.parametrize("classes", [CLASSES, ("metal", "oxide", "sulfide")])
def test_classes_keep_their_weights_if_they_are_the_same(tmp_path, classes):
    old, new = (
        dataclasses.replace(
            with_elements((6, 26)),
            property_names=("kind",),
            property_min=(0.0,),
            property_max=(2.0,),
            property_mean=(0.0,),
            property_std=(1.0,),
            class_names={"kind": names},
        )
        for names in (CLASSES, classes)
    )
    expected = shipped(tmp_path / "m", NETWORK, old)
    _, found = started(tmp_path / "m", NETWORK, new)
    parts = {name: found[f"property/{name}"] for name in ("weight", "bias", "null")}
    if classes == CLASSES:
        for name, leaf in parts.items():
            np.testing.assert_array_equal(leaf, expected[f"property/{name}"])
    else:
        np.testing.assert_array_equal(parts["weight"], np.zeros((3, NETWORK.width)))
        for name in ("bias", "null"):
            np.testing.assert_array_equal(parts[name], expected["property/null"])


def shipped_params(folder: Path, data: DatasetStatistics) -> Any:
    shipped(folder, NETWORK, data)
    return trained_model.load(folder).params


@pytest.mark.parametrize(
    ("section", "changes", "named"),
    [
        ("model", {"width": 32}, "model.width=32, the config 16"),
        ("model", {"conditioning": "none"}, "model.conditioning='none', the config 'cds'"),
        ("model", {"num_rank_features": 4}, "model.num_rank_features=4, the config 0"),
        ("noise", {"frac_sigma_max": 0.4}, "noise.frac_sigma_max=0.4, the config 0.5"),
    ],
)
def test_a_model_with_another_architecture_is_refused(tmp_path, section, changes, named):
    there = dataclasses.replace(
        CONFIG, **{section: dataclasses.replace(getattr(CONFIG, section), **changes)}
    )
    params = weights(there.model, statistics(), seed=1)
    trained_model.save(TrainedModel(params, there, statistics(), {}), tmp_path / "m")
    with pytest.raises(UserError, match=f"init_from=.*/m: that model has {named}; give both"):
        load_initial_model(_starting_from(str(tmp_path / "m")))


@pytest.mark.parametrize("stage", ["pretrain", "ranks", "given"])
def test_a_stage_that_is_still_to_train_is_told_with_its_command(stage):
    command = f"--config=mp20_cdi:{stage} --workdir=runs/gone/mp20_cdi_{stage}"
    with pytest.raises(UserError, match=f"not a trained model yet: train it first.*{command}"):
        load_initial_model(_starting_from(f"runs/gone/mp20_cdi_{stage}"))


@pytest.mark.parametrize("name", ["pretrain", "ranks", "_ranks"])
def test_a_missing_model_that_no_config_trains_has_no_command(name):
    with pytest.raises(UserError, match=r"training\.init_from: .*neither a folder with a trained"):
        load_initial_model(_starting_from(f"runs/gone/{name}"))


@pytest.mark.parametrize("damage", ["missing element", "nan", "unknown"])
def test_weights_that_do_not_fit_the_network_are_refused(tmp_path, damage):
    data = with_elements(ELEMENTS)
    params = weights(NETWORK, data, seed=1)
    if damage == "missing element":
        kernel = params["species"]["Dense_0"]["kernel"]
        params["species"]["Dense_0"]["kernel"] = kernel[:-1]
    elif damage == "nan":
        params["property"]["bias"] = np.full_like(params["property"]["bias"], np.nan)
    else:
        params["more"] = {"bias": np.zeros(3, np.float32)}
    trained_model.save(TrainedModel(params, CONFIG, data, {}), tmp_path / "m")
    with pytest.raises(UserError, match="not finite numbers of the network"):
        started(tmp_path / "m", NETWORK, data)


def test_a_misspelt_model_gets_a_suggestion_and_creates_no_folder(tmp_path):
    config = _starting_from("perov5_cdsi")
    with pytest.raises(UserError, match=r"perov5_cdsi is neither.*did you mean perov5_cds"):
        train(config, splits(), tmp_path / "run", lambda line: None)
    assert not (tmp_path / "run").exists()


def _starting_from(model: str, num_steps: int = 10) -> Any:
    training = dataclasses.replace(
        CONFIG.training,
        init_from=model,
        num_steps=num_steps,
        checkpoint_every=5,
        learning_rate=1e-9,
        final_learning_rate=0.0,
    )
    return dataclasses.replace(CONFIG, training=training)


def test_the_first_step_starts_from_the_weights_of_the_model(tmp_path, tiny_model, monkeypatch):
    begun: list[TrainState] = []

    def begin(checkpoints: Checkpoints, state: TrainState) -> None:
        begun.append(state)
        raise KeyboardInterrupt

    # Fresh weights that are drawn, because the network's own take long to compile.
    network = denoising.build(CONFIG, statistics())
    vector, unflatten = ravel_pytree(drawn_params(network))
    monkeypatch.setattr(loop, "initial_params", lambda *_: (vector, unflatten))
    monkeypatch.setattr(Checkpoints, "restore", begin)
    with pytest.raises(KeyboardInterrupt):
        train(_starting_from(str(make_tiny_model.FOLDER)), splits(), tmp_path, lambda line: None)
    for weights in (begun[0].params, begun[0].ema_params):
        jax.tree.map(np.testing.assert_array_equal, unflatten(weights), tiny_model.params)


@pytest.mark.slow
def test_a_run_starts_from_a_model_and_resumes_without_it(tmp_path, tiny_model):
    def stop(line: str) -> None:
        if "step 10/" in line:
            raise KeyboardInterrupt

    start = shutil.copytree(make_tiny_model.FOLDER, tmp_path / "start")
    config = _starting_from(str(start))
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    train(config, splits(), undisturbed, lambda line: None)
    with pytest.raises(KeyboardInterrupt):
        train(config, splits(), stopped, stop)
    shutil.rmtree(start)  # only the start needs it
    lines: list[str] = []
    train(config, splits(), stopped, lines.append)
    assert any("resuming from the checkpoint of step 5" in line for line in lines)
    models = [trained_model.load(folder) for folder in (undisturbed, stopped)]
    jax.tree.map(np.testing.assert_array_equal, models[0].params, models[1].params)

    # Ten of Adam's steps, each of at most 1e-9, end where they began.
    expected = by_name(tiny_model.params)
    for name, leaf in by_name(models[0].params).items():
        np.testing.assert_allclose(leaf, expected[name], atol=1e-6)
