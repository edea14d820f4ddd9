import copy
import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from crystal_diffusion_jax.config import ExperimentConfig, differences, from_dict, to_dict
from crystal_diffusion_jax.errors import UserError

CONFIGS = sorted(
    path.stem
    for path in (Path(__file__).parent.parent / "configs").glob("*.py")
    if path.stem != "__init__"
)


def from_file(name: str, variant: str = "full") -> dict[str, Any]:
    """The nested dictionaries of one file of configs/."""
    values: dict[str, Any] = (
        importlib.import_module(f"configs.{name}").get_config(variant).to_dict()
    )
    return values


@pytest.fixture
def values() -> dict[str, Any]:
    return from_file("perov5_cds")


def fields_of(kind: Any) -> dict[str, Any]:
    """Field names of a config dataclass, nested like its dictionaries."""
    hints = {field.name: field.type for field in dataclasses.fields(kind)}
    return {
        name: fields_of(hint) if dataclasses.is_dataclass(hint) else None
        for name, hint in hints.items()
    }


def names_of(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: names_of(value) if isinstance(value, dict) else None for name, value in values.items()
    }


@pytest.mark.parametrize("variant", ["full", "smoke"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_file_states_every_field_and_survives_json(name, variant):
    stated = from_file(name, variant)
    assert names_of(stated) == fields_of(ExperimentConfig)
    config = from_dict(stated)
    assert from_dict(to_dict(config)) == config
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_file_names_the_variants_it_has(name):
    with pytest.raises(ValueError, match=r'no variant "huge"; choose "full" or "smoke"'):
        from_file(name, "huge")


def test_the_two_perov5_experiments_differ_in_the_conditioning_alone():
    one, other = (from_dict(from_file(name)) for name in ("perov5_cds", "perov5_cdi"))
    assert differences(one, other) == ["model.conditioning: 'cds' -> 'cdi'"]


@pytest.mark.parametrize("section", ["model", "noise", "loss", "training", "data", "sampling"])
def test_a_field_that_does_not_exist_is_named_with_those_that_do(values, section):
    field = next(iter(values[section]))
    values[section]["widht"] = 3
    with pytest.raises(UserError, match=rf"config\.{section}\.widht does not exist.*{field}"):
        from_dict(values)


def test_a_section_that_does_not_exist_is_named(values):
    values["modle"] = {}
    with pytest.raises(UserError, match=r"config\.modle does not exist; config has seed, data"):
        from_dict(values)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(ExperimentConfig)])
def test_a_missing_section_is_named(values, name):
    del values[name]
    with pytest.raises(UserError, match=rf"config\.{name} is missing"):
        from_dict(values)


@pytest.mark.parametrize(
    ("section", "field", "value", "kind"),
    [
        ("model", "width", True, "of type int"),
        ("model", "width", 64.0, "of type int"),
        ("model", "width", None, "of type int"),
        ("model", "conditioning", 1, "of type str"),
        ("model", "mean_free_score", 1, "of type bool"),
        ("training", "learning_rate", "0.001", "of type float"),
        ("training", "learning_rate", True, "of type float"),
        ("loss", "species_kl", [20.0], "of type float"),
        ("data", "properties", "heat_ref", "a list"),
        ("data", "properties", (1, 2), "of type str"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_the_type_wanted(
    values, section, field, value, kind
):
    values[section][field] = value
    with pytest.raises(UserError, match=rf"config\.{section}\.{field} must be {kind}, not"):
        from_dict(values)


def test_a_number_where_a_section_belongs_is_named(values):
    values["model"] = 64
    with pytest.raises(UserError, match=r"config\.model must be a section of fields, not 64"):
        from_dict(values)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("model", "conditioning", "film"),
        ("model", "width", 0),
        ("model", "num_heads", 7),
        ("noise", "num_steps", 0),
        ("noise", "cosine_offset", -0.1),
        ("noise", "frac_sigma_min", 0.0),
        ("noise", "frac_sigma_max", 0.001),
        ("loss", "species_kl", -1.0),
        ("loss", "lattice", float("inf")),
        ("loss", "condition_dropout", 1.5),
        ("training", "num_steps", 0),
        ("training", "optimizer", "sgd"),
        ("training", "learning_rate", -1.0),
        ("training", "learning_rate", float("inf")),
        ("training", "weight_decay", float("nan")),
        ("training", "ema_decay", 1.0),
        ("training", "warmup_steps", 26_000),
        ("training", "checkpoint_every", 150),
        ("sampling", "corrector_step_size", -1e-6),
    ],
)
def test_an_impossible_value_is_named_with_its_section(values, section, field, value):
    values[section][field] = value
    with pytest.raises(UserError, match=rf"config\.{section}: .*{field}"):
        from_dict(values)


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


def test_the_place_of_the_data_makes_no_difference(values):
    moved = copy.deepcopy(values)
    moved["data"]["root"] = "/elsewhere"
    assert from_dict(moved) != from_dict(values)
    assert differences(from_dict(values), from_dict(moved)) == []
