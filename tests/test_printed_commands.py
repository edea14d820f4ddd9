"""Every command that a program prints or writes is run as it stands, by a shell.

With blanks, quotes, brackets, commas and letters of other alphabets in paths and names.
"""

import ast
import csv
import html
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crystal_diffusion_jax import commands
from tests import make_tiny_model
from tests.tiny_run import perovskite

ROOT = Path(__file__).parent.parent
ODD = [
    "plain",
    "with blanks",
    "it's",
    'say "no"',
    "[a] (b) {c}",
    "a,b;c",
    "Ünïcødé 晶体",
    "$HOME `x` \\n !1 *?",
    "-dash=1",
    "a#b & c | d > e",
]


def environment(**changed: str) -> dict[str, str]:
    """In which `python` and `crystal-diffusion` are those of these tests."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)} | changed


def run(line: str, folder: Path, **changed: str) -> str:
    """What a line prints that is typed into bash, with the script wherever it is not installed."""
    script = 'crystal-diffusion() { python -m crystal_diffusion_jax.cli "$@"; }\n'
    done = subprocess.run(
        ["bash", "-c", script + line],
        cwd=folder,
        env=environment(**changed),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), max_size=4))
def test_a_shell_gives_each_argument_back(arguments: list[str]) -> None:
    assert shlex.split(commands.command("x", arguments)) == ["crystal-diffusion", "x", *arguments]
    words = shlex.split(commands.next_command("x", arguments))
    assert words == ["python", "-m", "experiments.x", *arguments]


def test_flags_without_a_value_are_left_out_and_true_is_a_bare_flag() -> None:
    given_values = {"a": None, "b": False, "c": True, "d": 0, "e": "", "f.g": ("x",)}
    assert commands.flags(given_values) == ["--c", "--d=0", "--e=", "--f.g=('x',)"]


def test_a_script_prints_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["crystal-diffusion prepare"])
    assert commands.next_command("train", ["--a=b c"]) == "crystal-diffusion train '--a=b c'"


def test_no_command_is_put_together_anywhere_else() -> None:
    """An f-string with a program's name and a value in it is one that nobody has quoted."""
    unquoted = re.compile(r"(python -m experiments\.|crystal-diffusion )[a-z]+ .*=\0")
    found = []
    for path in sorted((ROOT / "crystal_diffusion_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (str(getattr(part, "value", "")) for part in node.values)
                constant = (isinstance(part, ast.Constant) for part in node.values)
                text = "".join(p if c else "\0" for p, c in zip(parts, constant, strict=True))
                found += [f"{path.name}: {line}" for line in unquoted.findall(text)]
    assert found == []


def write_table(folder: Path, property_name: str, bad: bool) -> Path:
    folder.mkdir()
    with (folder / "my table.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["material_id", property_name, "cif"])
        for index in range(12):
            b = ("Ti", "Zr")[index % 2]
            cif = perovskite("Ba", b, 3.9 + 0.01 * index).to(fmt="cif")
            rows.writerow([f"m{index}", 0.1 * index, cif])
        rows.writerow(["bad", "" if bad else "1", "data_x" if bad else cif])
    return folder / "my table.csv"


def show_config(line: str, folder: Path, **changed: str) -> str:
    """The settings that a training command arrives at, without training."""
    return run(f"{line} --show_config", folder, **changed)


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_what_prepare_prints_trains_on_the_same_crystals(tmp_path: Path, name: str) -> None:
    property_name = f"gap {name.replace(',', '.')}"
    table = write_table(tmp_path / name, property_name, bad=True)
    cache = {"CRYSTAL_DIFFUSION_CACHE": str(tmp_path / "cache")}
    first = commands.next_command(
        "prepare",
        commands.flags(
            {
                "root": table,
                "properties": property_name,
                "skip_bad_rows": True,
                "max_num_atoms": 7,
            }
        ),
    )
    said = run(first, ROOT, **cache)
    (line,) = [text for text in said.splitlines() if text.startswith("train on them with: ")]
    command = line.removeprefix("train on them with: ")
    settings = show_config(command, ROOT, **cache)
    assert repr(str(table)) in settings or str(table) in settings
    # It is the whole command: with a tiny network in place of the large one it trains.
    smoke = command.replace("--config=own_data", "--config=own_data:smoke", 1)
    smoke = smoke.replace("--workdir=runs/mine", shlex.quote(f"--workdir={tmp_path}/runs/{name}"))
    said = run(smoke, ROOT, **cache)
    (line,) = [text for text in said.splitlines() if text.startswith("sample from it with: ")]
    command = line.removeprefix("sample from it with: ").replace("--num=200", "--num=2")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    run(command, folder)
    assert (folder / "samples" / name / "samples.db").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_the_commands_on_a_page_make_the_samples_and_the_page_again(
    tmp_path: Path, name: str
) -> None:
    out = tmp_path / name
    arguments = {
        "model": make_tiny_model.FOLDER,
        "target": "min",
        "num": 2,
        "elements": "Ba,Sr,Ti,O",
        "out": out,
    }
    run(commands.command("sample", commands.flags(arguments)), tmp_path)
    report = {"structures": out, "out": tmp_path / f"{name}.html"}
    run(commands.command("report", commands.flags(report)), tmp_path)
    page = tmp_path / f"{name}.html"
    (block,) = re.findall(r"<pre[^>]*>(crystal-diffusion sample.*?)</pre>", page.read_text(), re.S)
    written = html.unescape(block)
    page.unlink()
    for path in sorted(out.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    run(written, tmp_path)
    assert (out / "samples.db").is_file()
    assert page.is_file()


@pytest.mark.slow
def test_the_command_on_a_model_card_samples(tmp_path: Path) -> None:
    (tmp_path / "it's mine").symlink_to(ROOT / make_tiny_model.FOLDER)
    card = (tmp_path / "it's mine" / "README.md").read_text()
    (line,) = re.findall(r"^    (crystal-diffusion .*)$", card, re.MULTILINE)
    run(
        line.replace("--num=200", "--num=2").replace("../samples", f"'{tmp_path}/s'"),
        tmp_path / "it's mine",
    )
    assert (tmp_path / "s" / "samples.db").is_file()
