"""Mistakes of a new user: one sentence each, which suggests the nearest word.

Those of `train`, and those that need a trained model, are in test_entry_points.py.
"""

import importlib
import sys
from pathlib import Path

import pytest

from crystal_diffusion_jax.cli.__main__ import COMMANDS
from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.errors import UserError, did_you_mean

# program, flags, what the sentence has to hold; FOLDER is empty, FILE a text.
MISTAKES = [
    ("sample", "--model=perov5_cds", "required: --out"),
    ("sample", "--model=perov5_cds --out=OUT --guidence=1", "did you mean --guidance?"),
    ("sample", "--model=perov5_cds --out=OUT --numatoms=5", "did you mean --num_atoms?"),
    ("sample", "--model=perov5_cds --out=OUT -target=min", "did you mean --target?"),
    ("sample", "--model=perov5_cds --out=OUT --temp=1", "there is no flag --temp (see"),
    ("sample", "--model=perov5_cds --out=OUT min", "unrecognized arguments: min"),
    ("sample", "--model=perov5_cds --out=OUT --solver=secondorder", "mean second_order?"),
    ("sample", "--model=perov5_cds --out=OUT --num=1e3", "--num"),
    ("sample", "--model=perov5_cdsi --out=OUT", "did you mean perov5_cds?"),
    ("sample", "--model=Perov5_CDI --out=OUT", "did you mean perov5_cdi?"),
    ("sample", "--model=mp20_cdi_ranks --out=OUT", "mp20_cdi_ranks is now mp20_cdi"),
    ("sample", "--model=FOLDER --out=OUT", "FOLDER is neither a folder with a trained model"),
    ("sample", "--model=perov5_cds --out=OUT --target=heat=1", "did you mean heat_ref?"),
    ("sample", "--model=perov5_cds --out=OUT --target=mni", "'mni'"),
    ("sample", "--model=perov5_cds --out=OUT --target=2:1", "as in 1:2"),
    ("sample", "--model=perov5_cds --out=OUT --elements=Ba;Ti;O", "as in --elements=Ba,Ti,O"),
    ("sample", "--model=perov5_cds --out=OUT --chemical_system=Ba-ti-O", "'ti' is not an element"),
    ("sample", "--model=perov5_cds --out=OUT --chem=Ba-Ti-O", "there is no flag --chem"),
    ("evaluate", "--structures=FOLDER --dataset=perov-5 --out=OUT", "did you mean perov5?"),
    ("evaluate", "--structures=FOLDER --dataset=MP20 --out=OUT", "did you mean mp20?"),
    ("evaluate", "--structures=FOLDER --dataset=alex --out=OUT", "perov5, carbon24, mp20 (see"),
    ("evaluate", "--structures=FOLDER/no --dataset=mp20 --out=OUT", "FOLDER/no does not exist"),
    ("evaluate", "--structures=FOLDER --dataset=mp20 --out=OUT", "FOLDER holds neither"),
    ("evaluate", "--structure=FOLDER --dataset=mp20 --out=OUT", "did you mean --structures?"),
    ("predict", "--orcale=perov5 --structures=FOLDER --out=OUT", "did you mean --oracle?"),
    ("predict", "--oracle=carbon --structures=FOLDER --out=OUT", "did you mean carbon24?"),
    ("predict", "--oracle=mp20 --structures=FILE --out=OUT", "FILE is not among the kinds"),
    ("prepare", "", "give --dataset=NAME, --root=YOUR_DATA, --oracle or --potential"),
    ("prepare", "--data=perov5", "there is no flag --data"),
    ("prepare", "--dataset=perov", "did you mean perov5?"),
    ("prepare", "--dataset=perov5 --root=FOLDER/no", "FOLDER/no' is not a folder"),
    ("prepare", "--dataset=perov5 --root=FOLDER", "FOLDER has no train.csv"),
    ("prepare", "--root=FOLDER/no --properties=x", "root='FOLDER/no' does not exist"),
    ("report", "--structures=FOLDER --out=OUT --dataset=mp2", "did you mean mp20?"),
    ("report", "--structures=FOLDER/no --out=OUT", "FOLDER/no does not exist"),
    ("report", "--structures=FOLDER --out=OUT --symprec=nan", "--symprec=nan must be at least 0"),
    ("report", "--structures=FOLDER --out=OUT --symprec=-1", "--symprec=-1.0 must be at least 0"),
    ("prepare", "--root=FOLDER --properties=e,f,e", "properties names e more than once"),
    ("prepare", "--root=FOLDER --properties=e --max_num_atoms=-3", "--max_num_atoms=-3"),
    ("table1", "--out=OUT --model=perov5_cds", "did you mean --models?"),
    ("table1", "--out=OUT --models=perov5_cdsi", "did you mean perov5_cd"),
    ("table1", "--out=OUT --guidance=a", "--guidance=a"),
    ("table1", "--out=OUT --num_relaxed=-1", "--num_relaxed=-1 must be at least 0"),
    ("table1", "--out=OUT --first_seed=-1", "--first_seed=-1 must be at least 0"),
    ("reference", "--out=FILE", "FILE/commands.md cannot be written"),
]


def module_of(program: str) -> str:
    """A command of users, or a study."""
    package = "crystal_diffusion_jax.cli" if program in COMMANDS else "studies"
    return f"{package}.{program}"


@pytest.mark.parametrize(("program", "flags", "fragment"), MISTAKES)
def test_a_mistake_is_explained_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, flags: str, fragment: str
) -> None:
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "FILE").write_text("text")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["program", *flags.split()])
    with pytest.raises(UserError) as caught:
        importlib.import_module(module_of(program)).main()
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "OUT").exists()


@pytest.mark.parametrize(
    ("name", "meant"), [("perov", "perov5"), ("mp-20", "mp20"), ("Carbon_24", "carbon24")]
)
def test_an_unknown_data_set_is_named_with_its_nearest_match(name: str, meant: str) -> None:
    with pytest.raises(UserError, match=rf"'{name}': .*; did you mean {meant}\?"):
        load(DataConfig(name=name))


def test_a_missing_column_is_named_with_its_nearest_match(tmp_path: Path) -> None:
    table = tmp_path / "own.csv"
    table.write_text("cif,formation_energy_per_atom,band_gap\nx,1,2\n")
    with pytest.raises(UserError, match=r"'bandgap' .*; did you mean band_gap\?"):
        load(DataConfig(root=str(table), properties=("bandgap",)))
    with pytest.raises(UserError, match=r"no column 'density' .* band_gap$"):
        load(DataConfig(root=str(table), properties=("density",)))


def test_only_a_word_that_is_near_is_suggested() -> None:
    names = ["perov5", "carbon24", "mp20"]
    assert did_you_mean("CARBON-24", names) == "; did you mean carbon24?"
    assert did_you_mean("silicon_dioxide", names) == ""
    assert did_you_mean("", names) == ""
    assert did_you_mean("perov5", []) == ""
