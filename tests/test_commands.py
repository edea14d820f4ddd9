"""What the programs say of themselves: --help, the command reference, their examples."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from studies import reference

ROOT = Path(__file__).parent.parent
PROGRAMS = reference.programs()


def help_text(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What --help prints on a terminal of 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")
    module = importlib.import_module(f"crystal_diffusion_jax.cli.{name}")
    if hasattr(module, "parser"):
        return module.parser().format_help()
    # absl takes its help text from the main module.
    command = [sys.executable, "-m", f"experiments.{name}", "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout


def examples(text: str, name: str) -> list[list[str]]:
    """Arguments of each command of a program that a text shows in an indented line."""
    lines = re.findall(rf"^    python -m experiments\.{name} (.*)$", text, re.MULTILINE)
    return [shlex.split(line) for line in lines]


def test_the_reference_is_what_the_programs_say() -> None:
    said = (ROOT / "docs" / "commands.md").read_text()
    assert said == reference.commands_page(), "python -m studies.reference --out=docs"


def test_every_program_that_can_be_run_is_in_the_reference() -> None:
    written = {path.stem for path in (ROOT / "experiments").glob("*.py")}
    assert set(PROGRAMS) == written - {"__init__", "cli"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_fits_a_screen_and_shows_two_examples(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = help_text(name, monkeypatch)
    lines = text.rstrip("\n").splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    assert len(examples(text, name)) >= 2


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_examples_are_understood(name: str) -> None:
    module = importlib.import_module(f"crystal_diffusion_jax.cli.{name}")
    names = {flag.split("=")[0].split(" ")[0] for flag, _ in reference.rows(module)}
    for arguments in examples(module.__doc__ or "", name):
        given = {argument.split("=")[0] for argument in arguments if argument.startswith("--")}
        assert given <= names
        if hasattr(module, "parser"):
            module.parser().parse_args(arguments)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_flag_says_what_it_is(name: str) -> None:
    module = importlib.import_module(f"crystal_diffusion_jax.cli.{name}")
    meanings = dict(reference.rows(module))
    assert meanings
    for flag, meaning in meanings.items():
        assert re.match(r"\w", meaning), flag


def test_the_reference_is_written_to_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["reference.py", f"--out={tmp_path / 'new'}"])
    reference.main()
    assert (tmp_path / "new" / "commands.md").read_text() == reference.commands_page()
