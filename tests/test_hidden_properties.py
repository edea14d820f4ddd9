"""Missing values and classes in training: statistics, what the network sees, loss and gradient."""

import dataclasses
import itertools
import json
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

from crystal_diffusion_jax import denoising, trained_model
from crystal_diffusion_jax.config import LossConfig
from crystal_diffusion_jax.data.arrays import CrystalDataset, DatasetStatistics, dataset_statistics
from crystal_diffusion_jax.data.batches import evaluation_batches, tail_oversampling
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.diffusion.schedules import noise_schedule
from crystal_diffusion_jax.models.embeddings import Condition, PropertyEmbedding
from crystal_diffusion_jax.sampling.conditions import condition_arrays
from crystal_diffusion_jax.sampling.parse import parse_target
from crystal_diffusion_jax.sampling.weights import check_weights
from crystal_diffusion_jax.trained_model import TrainedModel, shipped_names
from crystal_diffusion_jax.training.loss import diffusion_loss, noise_batch
from tests.smoke_run import CONFIG

KINDS = ("insulator", "metal", "semiconductor")


def mixed_dataset() -> CrystalDataset:
    """Perovskites with a number, three classes and two, each missing in some of them."""
    whole = load(CONFIG.data)["train"].take(np.arange(60))
    rng = np.random.default_rng(0)
    columns = [
        np.where(rng.random(60) < 0.4, np.nan, rng.normal(2.0, 3.0, 60)),
        np.where(rng.random(60) < 0.3, np.nan, rng.integers(3, size=60)),
        np.where(rng.random(60) < 0.2, np.nan, rng.integers(2, size=60)),
    ]
    return dataclasses.replace(
        whole,
        properties=np.array(columns).T,
        property_names=("gap", "kind", "is_metal"),
        class_names={"kind": KINDS, "is_metal": ("False", "True")},
    )


DATASET = mixed_dataset()
STATISTICS = dataset_statistics(DATASET, scale_by_num_atoms=True)


def test_statistics_are_those_of_the_known_values() -> None:
    gaps = DATASET.properties[:, 0]
    known = gaps[~np.isnan(gaps)]
    assert 0 < len(known) < 60
    assert STATISTICS.property_mean[0] == pytest.approx(np.nanmean(gaps))
    assert STATISTICS.property_std[0] == pytest.approx(np.nanstd(gaps))
    assert STATISTICS.property_min[0] == known.min()
    assert STATISTICS.property_max[0] == known.max()
    np.testing.assert_allclose(
        STATISTICS.property_quantiles[0], np.percentile(known, np.arange(101))
    )
    assert STATISTICS.num_known == tuple(np.sum(~np.isnan(DATASET.properties), axis=0))
    assert parse_target("gap=min:max", STATISTICS) == {"gap": (known.min(), known.max())}


def test_three_classes_keep_their_numbers_and_two_are_scaled_as_numbers() -> None:
    assert STATISTICS.one_hot_sizes == (0, 3, 0)
    (batch,) = evaluation_batches(DATASET, STATISTICS, 60)
    np.testing.assert_array_equal(batch.properties[:, 1], DATASET.properties[:, 1])
    booleans = DATASET.properties[:, 2]
    z = (booleans - np.nanmean(booleans)) / np.nanstd(booleans)
    np.testing.assert_allclose(batch.properties[:, 2], z, rtol=1e-6)


def test_a_crystal_is_in_a_tail_by_its_known_values_alone() -> None:
    gaps = DATASET.properties[:, :1]
    low, high = np.nanquantile(gaps, (0.05, 0.95))
    in_tail = [not np.isnan(gap) and (gap < low or gap > high) for gap in gaps[:, 0]]
    np.testing.assert_array_equal(tail_oversampling(gaps, 3), np.where(in_tail, 3, 1))


def test_statistics_with_classes_come_back_from_json_and_wrong_ones_are_refused() -> None:
    text = json.dumps(dataclasses.asdict(STATISTICS))
    fields = json.loads(text)
    assert msgspec.convert(fields, DatasetStatistics) == STATISTICS
    for wrong in ({"other": ["a"]}, {"kind": ["a", "a", "b"]}, {"kind": ["a", "b"]}):
        with pytest.raises(ValueError, match="class_names"):
            msgspec.convert(fields | {"class_names": wrong}, DatasetStatistics)


@pytest.mark.parametrize("num_rank_features", [0, 4])
def test_a_class_adds_its_own_row_of_the_weight(num_rank_features: int) -> None:
    network = PropertyEmbedding(
        6, num_rank_features, STATISTICS.z_quantiles, STATISTICS.one_hot_sizes
    )
    rng = np.random.default_rng(1)
    shapes: dict[str, tuple[int, ...]] = {"weight": (5, 6), "bias": (3, 6), "null": (3, 6)}
    if num_rank_features:
        shapes["by_rank"] = (3, 4, 6)
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    z = np.array([[-0.5, code, 1.25] for code in range(3)], np.float32)
    for present in itertools.product([True, False], repeat=3):
        condition = Condition(jnp.asarray(z), jnp.broadcast_to(jnp.asarray(present), z.shape))
        found: Any = jax.jit(network.apply)({"params": params}, condition)
        for code in range(3):
            inputs = [z[code, :1], np.eye(3)[code], z[code, 2:]]
            rows = np.split(params["weight"], [1, 4])
            parts = [
                one @ row + b for one, row, b in zip(inputs, rows, params["bias"], strict=True)
            ]
            if num_rank_features:
                for p in (0, 2):  # a class has no rank
                    u = np.interp(z[code, p], *_ranks(STATISTICS.z_quantiles[p]))
                    parts[p] = parts[p] + np.cos(np.pi * u * np.arange(1, 5)) @ params["by_rank"][p]
            expected = sum(np.where(present[p], parts[p], params["null"][p]) for p in range(3))
            np.testing.assert_allclose(found[code], expected, rtol=1e-4, atol=1e-4)


def _ranks(quantiles: tuple[float, ...]) -> tuple[np.ndarray, list[float]]:
    """Each quantile once, with the mean of its ranks."""
    row, levels = np.array(quantiles, np.float32), np.linspace(0, 1, 101)
    knots = np.unique(row)
    return knots, [float(levels[row == knot].mean()) for knot in knots]


def drawn_model(conditioning: str) -> TrainedModel:
    """A model of the mixed data with drawn weights."""
    config = dataclasses.replace(
        CONFIG, model=dataclasses.replace(CONFIG.model, conditioning=conditioning)
    )
    network = denoising.build(config, STATISTICS)
    (batch,) = evaluation_batches(DATASET, STATISTICS, 60)
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf[:1]), batch.crystals)
    condition = Condition(jnp.zeros((1, 3)), jnp.ones((1, 3), bool))
    shapes = jax.eval_shape(network.init, jax.random.key(0), one, jnp.ones(1, int), condition)
    rng = np.random.default_rng(2)
    params = jax.tree.map(
        lambda like: (0.3 * rng.normal(size=like.shape)).astype(np.float32), shapes["params"]
    )
    return TrainedModel(params, config, STATISTICS, {})


@pytest.mark.parametrize("conditioning", ["cdi", "cds"])
def test_a_hidden_value_gives_loss_and_gradient_of_the_unconditional_branch(
    conditioning: str,
) -> None:
    model = drawn_model(conditioning)
    check_weights(model, "drawn")
    schedule = noise_schedule(model.config.noise)
    (batch,) = evaluation_batches(DATASET, STATISTICS, 60)
    rows = jax.tree.map(lambda leaf: jnp.asarray(leaf[:8]), batch)

    @jax.jit
    def loss_and_gradient(properties: jax.Array, dropout: jax.Array) -> Any:
        noisy = noise_batch(
            jax.random.key(4),
            rows.crystals,
            properties,
            rows.weight,
            len(STATISTICS.vocabulary),
            schedule,
            dropout,  # type: ignore[arg-type]
        )

        def loss(params: Any) -> Any:
            denoise = denoising.bind(model.denoiser, params)
            return diffusion_loss(denoise, noisy, schedule, LossConfig(), True)[0]

        return jax.value_and_grad(loss)(model.params)

    missing = jnp.full((8, 3), jnp.nan)
    known = jnp.asarray(np.nan_to_num(np.asarray(rows.properties)))
    found, gradient = loss_and_gradient(missing, jnp.float32(0.0))
    expected, null_gradient = loss_and_gradient(known, jnp.float32(1.0))
    told, _ = loss_and_gradient(known, jnp.float32(0.0))
    assert np.isfinite(found)
    assert found == expected
    jax.tree.map(np.testing.assert_array_equal, gradient, null_gradient)
    assert told != found
    # With values in part of the rows, still everything is finite.
    mixed, gradient = loss_and_gradient(rows.properties, jnp.float32(0.0))
    assert np.isnan(rows.properties).any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((mixed, gradient)))


def test_a_class_by_name_and_by_number_is_the_same_condition() -> None:
    for code, name in enumerate(KINDS):
        by_name, by_number = (
            parse_target(f"kind={text}", STATISTICS) for text in (name, str(code))
        )
        assert by_name == by_number == {"kind": (code, code)}
        values = {"kind": np.full(2, by_name["kind"][0])}
        condition = condition_arrays(values, STATISTICS, 2)
        np.testing.assert_array_equal(condition.values[:, 1], [code, code])
        np.testing.assert_array_equal(condition.present, [[False, True, False]] * 2)


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_models_have_numbers_only_and_the_same_conditions_as_ever(name: str) -> None:
    model = trained_model.load(name)
    statistics = model.statistics
    assert statistics.class_names == {}
    assert statistics.num_known == (sum(n for _, n in statistics.num_atoms_histogram),)
    check_weights(model, name)
    (mean,), (std,) = statistics.property_mean, statistics.property_std
    asked = np.linspace(statistics.property_min[0], statistics.property_max[0], 7)
    condition = condition_arrays({statistics.property_names[0]: asked}, statistics, 7)
    expected = ((asked - mean) / std).astype(np.float32)
    np.testing.assert_array_equal(condition.values[:, 0], expected)
    network = PropertyEmbedding(model.config.model.width)
    params = {name: model.params["property"][name] for name in ("weight", "bias", "null")}
    found: Any = network.apply({"params": params}, condition)
    np.testing.assert_array_equal(found, expected[:, None] * params["weight"] + params["bias"])
