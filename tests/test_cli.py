"""experiments/cli.py: the file of --out is tried before the work and written whole."""

import shutil
import sys
from pathlib import Path

import pytest

from crystal_diffusion_jax.cli import evaluate, predict, program
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


def test_a_link_in_place_of_half_a_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear diary")
    (tmp_path / ".m.json.tmp").symlink_to(tmp_path / "letter")
    program.check_output(tmp_path / "m.json")
    (tmp_path / ".m.json.tmp").symlink_to(tmp_path / "letter")
    program.write_output(tmp_path / "m.json", "text")
    assert (tmp_path / "letter").read_text() == "dear diary"


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
