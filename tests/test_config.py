import copy
import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from crystal_diffusion_jax import config as config_module
from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.config import (
    ExperimentConfig,
    describe,
    differences,
    fields,
    from_dict,
    to_dict,
)
from crystal_diffusion_jax.errors import UserError

CONFIGS = sorted(
    path.stem
    for path in (Path(__file__).parent.parent / "configs").glob("*.py")
    if path.stem != "__init__"
)
PAPERS = [name for name in CONFIGS if name.endswith(("_cdi", "_cds"))]


def from_file(name: str, variant: str = "") -> dict[str, Any]:
    """The nested dictionaries of one file of configs/."""
    values: dict[str, Any] = (
        importlib.import_module(f"configs.{name}").get_config(variant).to_dict()
    )
    return values


@pytest.fixture
def values() -> dict[str, Any]:
    return from_file("perov5_cds")


VARIANTS = [(name, variant) for name in CONFIGS for variant in ("", "smoke")]
VARIANTS += [(name, "paper") for name in PAPERS]
VARIANTS += [("mp20_cdi", stage) for stage in ("pretrain", "ranks", "given")]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_variant_survives_json(name, variant):
    stated = from_file(name, variant)
    config = from_dict(stated)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    assert to_dict(config) == stated


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_file_names_the_variants_it_has(name):
    known = [f'"{variant}"' for other, variant in VARIANTS if other == name]
    with pytest.raises(ValueError, match='no variant "huge"; choose ""') as caught:
        from_file(name, "huge")
    assert all(variant in str(caught.value) for variant in known)


@pytest.mark.parametrize("name", trained_model.shipped_names())
def test_a_config_file_says_what_the_shipped_model_was_trained_with(name):
    text = (trained_model.SHIPPED / name / "model.json").read_text()
    assert differences(from_dict(json.loads(text)["config"]), from_dict(from_file(name))) == []


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_variant_has_nothing_but_the_papers_method(name):
    config = from_dict(from_file(name, "paper"))
    assert not config.model.mean_free_score
    assert config.model.num_radial_features == config.model.num_rank_features == 0
    assert config.loss.species_cross_entropy == config.loss.condition_dropout == 0
    assert (config.training.optimizer, config.training.init_from) == ("adam", "")
    assert config.training.tail_oversampling == 1
    assert config.sampling.renoising_steps == 0
    assert not config.sampling.sizes_by_property
    assert config.noise.num_steps == 1000


@pytest.mark.parametrize("dataset", ["perov5", "carbon24", "mp20"])
def test_the_two_experiments_of_the_paper_differ_in_the_conditioning_alone(dataset):
    one, other = (from_dict(from_file(f"{dataset}_{way}", "paper")) for way in ("cds", "cdi"))
    assert differences(one, other) == ["model.conditioning: 'cds' -> 'cdi'"]


@pytest.mark.parametrize("section", ["model", "noise", "loss", "training", "data", "sampling"])
def test_a_field_that_does_not_exist_is_named_with_those_that_do(values, section):
    field = next(iter(values[section]))
    values[section]["widht"] = 3
    with pytest.raises(UserError, match=rf"config\.{section}\.widht does not exist.*{field}"):
        from_dict(values)


def test_a_mistyped_field_or_section_is_told_the_right_one(values):
    values["model"]["widht"] = 3
    with pytest.raises(UserError, match=r"config\.model\.widht .* did you mean width\?"):
        from_dict(values)
    del values["model"]["widht"]
    values["modle"] = {}
    with pytest.raises(UserError, match=r"config\.modle does not exist.* did you mean model\?"):
        from_dict(values)


def test_a_field_that_is_left_out_takes_its_default(values):
    del values["training"]["keep_last"]
    assert from_dict(values) == from_dict(from_file("perov5_cds"))


def test_a_missing_section_is_named(values):
    del values["noise"]
    with pytest.raises(UserError, match=r"config\.noise is missing"):
        from_dict(values)


@pytest.mark.parametrize(
    ("section", "field", "value", "kind"),
    [
        ("model", "width", True, "int, not bool"),
        ("model", "width", 64.0, "int, not float"),
        ("model", "width", None, "int, not None"),
        ("model", "conditioning", 1, "str, not int"),
        ("model", "mean_free_score", 1, "bool, not int"),
        ("training", "learning_rate", "0.001", "float, not str"),
        ("training", "learning_rate", True, "float, not bool"),
        ("loss", "species_kl", [20.0], "float, not list"),
        ("data", "properties", "heat_ref", "list, not str"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_the_type_wanted(
    values, section, field, value, kind
):
    values[section][field] = value
    with pytest.raises(UserError, match=rf"^config\.{section}\.{field} must be of type {kind}$"):
        from_dict(values)


def test_an_item_of_the_wrong_type_is_named(values):
    values["data"]["properties"] = ("a", 2)
    with pytest.raises(UserError, match=r"config\.data\.properties.* must be of type str, not int"):
        from_dict(values)


def test_a_number_where_a_section_belongs_is_named(values):
    values["model"] = 64
    with pytest.raises(UserError, match=r"config\.model must be of type dict, not int"):
        from_dict(values)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("model", "conditioning", "film"),
        ("model", "width", 0),
        ("model", "num_heads", 7),
        ("noise", "num_steps", 0),
        ("noise", "num_steps", 10**400),
        ("noise", "cosine_offset", -0.1),
        ("noise", "frac_sigma_min", 0.0),
        ("noise", "frac_sigma_max", 0.001),
        ("noise", "frac_sigma_max", 0.8),
        ("loss", "species_kl", -1.0),
        ("loss", "lattice", float("inf")),
        ("loss", "condition_dropout", 1.5),
        ("training", "num_steps", 0),
        ("training", "optimizer", "sgd"),
        ("training", "learning_rate", -1.0),
        ("training", "learning_rate", float("inf")),
        ("training", "final_learning_rate", float("nan")),
        ("training", "ema_decay", 1.0),
        ("training", "warmup_steps", 40_000),
        ("training", "checkpoint_every", 150),
        ("sampling", "corrector_step_size", -1e-6),
        ("sampling", "corrector_step_size", float("nan")),
        ("data", "val_fraction", float("nan")),
        ("data", "max_num_atoms", -1),
    ],
)
def test_an_impossible_value_is_named_with_its_section(values, section, field, value):
    values[section][field] = value
    with pytest.raises(UserError, match=rf"config\.{section}: .*{field}"):
        from_dict(values)


def test_a_value_out_of_range_is_told_the_range():
    with pytest.raises(
        ValueError, match=r"^num_steps must be at least 1 and at most 100000, not 0$"
    ):
        config_module.NoiseConfig(num_steps=0)


def test_distances_of_neighbours_need_lattices_scaled_by_the_number_of_atoms(values):
    values["model"]["num_radial_features"] = 4
    values["scale_by_num_atoms"] = False
    with pytest.raises(UserError, match=r"num_radial_features=4 needs scale_by_num_atoms=True"):
        from_dict(values)
    values["scale_by_num_atoms"] = True
    assert from_dict(values).model.num_radial_features == 4


def test_a_whole_number_is_good_enough_for_a_float(values):
    values["training"]["gradient_clip"] = 2
    clip = from_dict(values).training.gradient_clip
    assert (clip, type(clip)) == (2.0, float)
    values["training"]["gradient_clip"] = 10**400
    with pytest.raises(UserError, match=r"config\.training\.gradient_clip: Number out of range"):
        from_dict(values)


def test_a_list_from_json_becomes_a_tuple(values):
    values["data"]["properties"] = ["a", "b"]
    assert from_dict(values).data.properties == ("a", "b")


def test_differences_name_each_changed_field_with_both_values(values):
    changed = copy.deepcopy(values)
    changed["seed"] = 7
    changed["model"]["width"] = 32
    changed["data"]["properties"] = ("band_gap",)
    assert differences(from_dict(values), from_dict(changed)) == [
        "seed: 0 -> 7",
        "data.properties: ('heat_ref',) -> ('band_gap',)",
        "model.width: 64 -> 32",
    ]


def test_the_location_of_the_data_makes_no_difference(values):
    moved = copy.deepcopy(values)
    moved["data"]["root"] = "/elsewhere"
    assert from_dict(moved) != from_dict(values)
    assert differences(from_dict(values), from_dict(moved)) == []


def leaves(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Paths of all fields in nested dictionaries."""
    return [
        path
        for name, value in values.items()
        for path in (
            leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]
        )
    ]


def test_every_field_is_described_by_its_docstring(values):
    config = from_dict(values)
    described = list(fields(config))
    assert [path for path, _, _ in described] == leaves(to_dict(config))
    assert all(len(doc) > 5 and doc.endswith(".") for _, _, doc in described)
    text = describe(config)
    assert "--config.data.properties=('heat_ref',)\n    columns to condition on" in text
    assert text.count("--config.") == len(described)


def test_docstrings_document_no_field_that_is_gone():
    for kind in (ExperimentConfig, *(field.type for field in dataclasses.fields(ExperimentConfig))):
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            names = {field.name for field in dataclasses.fields(kind)}
            assert set(config_module.attribute_docs(kind)) == names
