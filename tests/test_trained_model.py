import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crystal_diffusion_jax import config as config_module
from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.data.arrays import DatasetStatistics
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.trained_model import TrainedModel
from tests import smoke_config

STATISTICS = DatasetStatistics(
    vocabulary=(8, 22, 56),
    property_names=("energy", "gap"),
    property_mean=(0.1, -1 / 3),
    property_std=(1e-7, 2.5),
    property_min=(-4.25, 0.0),
    property_max=(3.5, 8.0),
    num_atoms_histogram=((3, 10), (5, 120)),
    lattice_scale=4.1412345678901235,
    scale_by_num_atoms=True,
    property_quantiles=(
        tuple(np.linspace(-4.25, 3.5, 101).tolist()),
        tuple(np.linspace(0.0, 8.0, 101).tolist()),
    ),
    num_atoms_by_property=2 * (10 * ((1, 4), (0, 8)),),
)


def made_up_model(seed: int = 0) -> TrainedModel:
    rng = np.random.default_rng(seed)
    params = {
        "block_0": {
            "Dense_0": {
                "kernel": rng.normal(size=(3, 4)).astype(np.float32),
                "bias": np.array([0.0, -0.0, 1e-38, np.pi], np.float32),
            }
        },
        "weight": rng.normal(size=(2, 5)).astype(np.float32),
    }
    config = config_module.from_dict(smoke_config.get_config().to_dict())
    return TrainedModel(params, config, STATISTICS, {"steps": 20, "validation loss": 0.5})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved model."""
    trained_model.save(made_up_model(), tmp_path / "model")
    return tmp_path / "model"


def assert_same_weights(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        if isinstance(leaf, dict):
            assert_same_weights(found[name], leaf)
        else:
            assert found[name].dtype == leaf.dtype
            assert found[name].tobytes() == leaf.tobytes()


def test_a_saved_model_comes_back_bit_for_bit(folder):
    model, loaded = made_up_model(), trained_model.load(folder)
    assert_same_weights(loaded.params, model.params)
    assert loaded.config == model.config
    assert loaded.statistics == model.statistics
    assert loaded.training == model.training
    assert len(loaded.weights_sha256) == 64
    assert loaded.num_parameters == 3 * 4 + 4 + 2 * 5
    assert loaded.denoiser.num_species == 3
    assert loaded.denoiser.config == model.config.model


def test_the_workdir_of_a_run_stands_for_the_model_in_it(folder):
    from_workdir, direct = trained_model.load(folder.parent), trained_model.load(folder)
    assert from_workdir.weights_sha256 == direct.weights_sha256


def test_a_model_can_be_moved(folder, tmp_path):
    moved = tmp_path / "elsewhere" / "my model"
    shutil.copytree(folder, moved)
    assert_same_weights(trained_model.load(moved).params, made_up_model().params)


def test_the_weights_are_plain_arrays(folder):
    with np.load(folder / "weights.npz", allow_pickle=False) as arrays:
        names = {name: arrays[name].shape for name in arrays.files}
    assert names == {
        "block_0/Dense_0/kernel": (3, 4),
        "block_0/Dense_0/bias": (4,),
        "weight": (2, 5),
    }


def test_saving_again_replaces_the_model_and_leaves_nothing_beside_it(folder):
    trained_model.save(made_up_model(seed=1), folder)
    assert_same_weights(trained_model.load(folder).params, made_up_model(seed=1).params)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_save_that_fails_leaves_the_older_model_and_does_not_stop_the_next(folder, monkeypatch):
    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full_disk)
        with pytest.raises(OSError, match="no space"):
            trained_model.save(made_up_model(seed=1), folder)
    assert_same_weights(trained_model.load(folder).params, made_up_model().params)
    trained_model.save(made_up_model(seed=1), folder)
    assert_same_weights(trained_model.load(folder).params, made_up_model(seed=1).params)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_flipped_byte_in_the_weights_is_noticed(folder, place):
    weights = folder / "weights.npz"
    content = bytearray(weights.read_bytes())
    content[int(place * len(content))] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.npz is missing or does not match"):
        trained_model.load(folder)


def test_missing_weights_are_named(folder):
    (folder / "weights.npz").unlink()
    with pytest.raises(UserError, match=r"weights\.npz is missing"):
        trained_model.load(folder)


def test_a_folder_without_a_model_is_told_how_to_get_one(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=rf"{path.name} is neither .*experiments\.train"):
            trained_model.load(path)


@pytest.mark.parametrize("name", trained_model.shipped_names())
def test_a_shipped_model_is_found_by_its_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # wherever the user is
    model = trained_model.load(name)
    assert model.num_parameters > 100_000
    assert len(model.statistics.property_names) == 1
    ((*bins,),) = model.statistics.num_atoms_by_property
    # A percent of the 12,258 crystals of MP-20 makes a bin, of the others five.
    assert len(bins) == (100 if name.startswith("mp20") else 20)
    counts = [count for _, count in model.statistics.num_atoms_histogram]
    np.testing.assert_array_equal(np.sum(bins, axis=0), counts)


def test_a_folder_comes_before_the_shipped_model_of_its_name(folder, monkeypatch):
    name = trained_model.shipped_names()[0]
    shutil.copytree(folder, folder.parent / name)
    monkeypatch.chdir(folder.parent)
    own = trained_model.load(name)
    assert own.weights_sha256 == trained_model.load(folder).weights_sha256


def test_an_old_name_is_told_the_present_one():
    assert set(trained_model.OLD_NAMES.values()) <= set(trained_model.shipped_names())
    with pytest.raises(UserError, match=r"^mp20_cdi_ranks is now mp20_cdi$"):
        trained_model.load("mp20_cdi_ranks")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format_version": 1}', "\x00\x01"])
def test_a_damaged_description_is_named(folder, content):
    (folder / "model.json").write_text(content)
    with pytest.raises(UserError, match=r"model\.json is damaged"):
        trained_model.load(folder)


def test_a_truncated_description_is_named(folder):
    text = (folder / "model.json").read_text()
    (folder / "model.json").write_text(text[: len(text) // 2])
    with pytest.raises(UserError, match=r"model\.json is damaged"):
        trained_model.load(folder)


def test_a_newer_format_asks_for_an_upgrade(folder):
    description = json.loads((folder / "model.json").read_text())
    description["format_version"] = 2
    (folder / "model.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="upgrade crystal-diffusion-jax if a newer"):
        trained_model.load(folder)


def test_a_config_that_this_version_does_not_know_is_named_with_its_file(folder):
    description = json.loads((folder / "model.json").read_text())
    description["config"]["model"]["twist"] = 3
    (folder / "model.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"model\.json.*config\.model\.twist does not exist"):
        trained_model.load(folder)


def test_the_model_card_states_data_network_and_ranges(folder):
    card = (folder / "README.md").read_text()
    for part in ("abx3", "26 parameters", "130\ncrystals of 3 to 5 atoms", "3 elements"):
        assert part in card
    assert "| energy | -4.25 .. 3.5 |" in card
    assert "- steps: 20" in card


def test_a_training_without_a_model_yet_is_told_from_any_other_folder(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match=r"has not saved a model yet.*same train command"):
        trained_model.load(tmp_path / "run")
    for other in (tmp_path, "x" * 5000, "a\0b"):
        with pytest.raises(UserError, match="neither a folder with a trained model"):
            trained_model.load(other)


def test_the_card_of_cells_of_one_size_names_it_once():
    model = made_up_model()
    statistics = dataclasses.replace(
        model.statistics,
        num_atoms_histogram=((5, 130),),
        num_atoms_by_property=2 * (20 * ((5,),),),
    )
    card = trained_model.model_card(dataclasses.replace(model, statistics=statistics))
    assert "130\ncrystals of 5 atoms" in card


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_the_card_says_whether_the_model_knows_formulas(probability):
    model = made_up_model()
    loss = dataclasses.replace(model.config.loss, species_given=probability)
    config = dataclasses.replace(model.config, loss=loss)
    card = trained_model.model_card(dataclasses.replace(model, config=config))
    assert ("predicts the structures of given formulas" in card) == (probability > 0)
    assert "extrapolations.\n\n|" in card or "--formula=FORMULA.\n\n|" in card
    # One that never chose the species cannot be asked for a target alone.
    assert ("sample --model=. --formula=FORMULA" in card) == (probability == 1)
    assert ("sample --model=. --target=" in card) == (probability < 1)


def test_the_card_of_own_data_names_their_place():
    model = made_up_model()
    data = dataclasses.replace(model.config.data, name="", root="my/table.csv")
    config = dataclasses.replace(model.config, data=data)
    assert "my/table.csv" in trained_model.model_card(dataclasses.replace(model, config=config))
