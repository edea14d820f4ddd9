"""The console script, and --out: tested before the work and written atomically."""

import shutil
import sys
from pathlib import Path

import pytest

from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.cli import __main__ as script
from crystal_diffusion_jax.cli import discover, evaluate, predict, program, train
from crystal_diffusion_jax.errors import UserError


def test_folders_above_the_output_are_made_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b" / "m.json"
    program.check_output(out)
    assert list(tmp_path.rglob("*")) == [tmp_path / "a", tmp_path / "a" / "b"]
    program.write_output(out, "text")
    assert out.read_text() == "text"


def test_trying_the_output_leaves_an_older_file_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text("older")
    program.check_output(tmp_path / "m.json")
    assert (tmp_path / "m.json").read_text() == "older"


@pytest.mark.parametrize("name", ["", "file/m.json", f"{'x' * 300}.json"])
def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out="):
        program.check_output(tmp_path / name)


def test_an_output_that_cannot_be_written_after_all_is_a_sentence(tmp_path: Path) -> None:
    out = tmp_path / "a" / "m.json"
    program.check_output(out)
    shutil.rmtree(out.parent)
    with pytest.raises(UserError, match=r"m\.json cannot be written \(No such file"):
        program.write_output(out, "text")


@pytest.mark.parametrize("program", [evaluate, predict])
def test_the_output_is_tried_before_the_structures_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: object
) -> None:
    which = "--dataset" if program is evaluate else "--oracle"
    flags = [f"{which}=perov5", f"--structures={tmp_path / 'absent'}", f"--out={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["program", *flags])
    with pytest.raises(UserError, match="is a folder"):
        program.main()  # type: ignore[attr-defined]


def test_the_console_script_knows_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiments = Path(__file__).parent.parent / "experiments"
    assert set(script.COMMANDS) == {path.stem for path in experiments.glob("[!_]*.py")}
    monkeypatch.setattr(sys, "argv", ["crystal-diffusion", "--help"])
    script.main()
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in script.COMMANDS)


def test_the_console_script_suggests_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["crystal-diffusion", "smaple"])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert "unknown command smaple; choose from train, sample" in (error := capsys.readouterr().err)
    assert "did you mean sample?" in error


def test_commands_of_the_console_script_are_spelled_as_they_were_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["crystal-diffusion predict"])
    text = predict.parser().format_help()
    assert text.startswith("usage: crystal-diffusion predict --flag=value")
    assert "    crystal-diffusion predict --oracle=" in text
    assert "experiments" not in text.split("options:")[0]


def test_the_home_folder_is_found_after_the_sign_of_equality(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    parser = program.Parser("sample", "Samples.")
    parser.add_argument("--out", type=Path)
    given = ("~/li", "~nobody-of-this-name/li", "a/~/li")
    found = [parser.parse_args([f"--out={path}"]).out for path in given]
    assert found == [Path("/home/ada/li"), *map(Path, given[1:])]


def test_the_home_folder_is_found_in_flags_that_may_hold_a_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    flags = discover.parser().parse_args(
        ["--model=perov5_cds", "--formula=TiO2,NaCl", "--like=~/a.csv:3", "--known=~/b", "--out=c"]
    )
    assert (flags.formula, flags.like, flags.known) == (
        "TiO2,NaCl",
        "/home/ada/a.csv:3",
        ["/home/ada/b"],
    )


def test_the_home_folder_is_found_in_models_and_configs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(trained_model.SHIPPED / "perov5_cds", tmp_path / "mine")
    assert trained_model.load("~/mine").folder == tmp_path / "mine"
    (tmp_path / "own.py").write_text("")
    assert train.find_config("~/own.py:smoke") == f"{tmp_path}/own.py:smoke"
