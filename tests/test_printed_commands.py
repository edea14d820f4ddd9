"""Every command that a program prints or writes is run as it stands, by a shell.

With blanks, quotes, brackets, commas and letters of other alphabets in paths and names.
"""

import ast
import csv
import html
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crystal_diffusion_jax import commands
from crystal_diffusion_jax.cli import prepare
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
# Slashes and null characters cannot be in names of files.
EVERYTHING = "".join(ODD)


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
            a, b = ("Ba", "Sr", "Ca")[index % 3], ("Ti", "Zr")[index % 2]
            cif = perovskite(a, b, 3.9 + 0.01 * index).to(fmt="cif")
            rows.writerow([f"m{index}", 0.1 * index, cif])
        rows.writerow(["bad", "" if bad else "1", "data_x" if bad else cif])
    return folder / "my table.csv"


def words_of(line: str) -> list[str]:
    """The arguments that bash makes of a line."""
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True
    )
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("name", ODD)
def test_bash_understands_what_prepare_prints(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CRYSTAL_DIFFUSION_CACHE", str(tmp_path / "cache"))
    property_name = f"gap {name.replace(',', '.')}"
    table = write_table(tmp_path / name, property_name, bad=True)
    given_flags = {
        "root": table,
        "properties": property_name,
        "skip_bad_rows": True,
        "max_num_atoms": 7,
    }
    monkeypatch.setattr(sys, "argv", ["prepare.py", *commands.flags(given_flags)])
    prepare.main()
    (line,) = re.findall("^train on them with: (.*)$", capsys.readouterr().out, re.MULTILINE)
    *program, config, root, properties, limit, skip, workdir = words_of(line)
    assert program == ["python", "-m", "experiments.train"]
    assert (config, workdir) == ("--config=own_data_finetune", "--workdir=runs/mine")
    assert root == f"--config.data.root={table}"
    assert ast.literal_eval(properties.removeprefix("--config.data.properties=")) == (
        property_name,
    )
    assert (limit, skip) == ("--config.data.max_num_atoms=7", "--config.data.skip_bad_rows=True")


@pytest.mark.slow
def test_what_prepare_prints_trains_and_what_that_prints_samples(tmp_path: Path) -> None:
    table = write_table(tmp_path / EVERYTHING, EVERYTHING, bad=True)
    cache = {"CRYSTAL_DIFFUSION_CACHE": str(tmp_path / "cache")}
    first = {"root": table, "properties": EVERYTHING, "skip_bad_rows": True}
    said = run(commands.next_command("prepare", commands.flags(first)), ROOT, **cache)
    (line,) = re.findall("^train on them with: (.*)$", said, re.MULTILINE)
    # With a tiny network in place of the large one, and not into the source's own folder.
    line = line.replace("--config=own_data_finetune", "--config=own_data:smoke", 1)
    line = line.replace(
        "--workdir=runs/mine", shlex.quote(f"--workdir={tmp_path}/runs/{EVERYTHING}")
    )
    said = run(line, ROOT, **cache)
    (line,) = re.findall("^sample from it with: (.*)$", said, re.MULTILINE)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    run(line.replace("--num=200", "--num=2"), folder)
    assert (folder / "samples" / EVERYTHING / "samples.db").is_file()


@pytest.mark.slow
def test_the_commands_on_a_page_make_the_samples_and_the_page_again(tmp_path: Path) -> None:
    out, page = tmp_path / EVERYTHING, tmp_path / f"{EVERYTHING}.html"
    first = {"model": make_tiny_model.FOLDER, "target": "min", "num": 2, "elements": "Ba,Sr,Ti,O"}
    run(commands.command("sample", commands.flags(first | {"out": out})), tmp_path)
    run(commands.command("report", commands.flags({"structures": out, "out": page})), tmp_path)
    (block,) = re.findall("<pre>(crystal-diffusion sample.*?)</pre>", page.read_text(), re.DOTALL)
    page.unlink()
    shutil.rmtree(out)
    run(html.unescape(block), tmp_path)
    assert (out / "samples.db").is_file()
    assert page.is_file()


@pytest.mark.slow
def test_the_command_on_the_page_of_other_crystals_makes_it_again(tmp_path: Path) -> None:
    crystals, page = tmp_path / f"{EVERYTHING}.cif", tmp_path / "page.html"
    crystals.write_text(perovskite("Ba", "Ti", 4.0).to(fmt="cif"))
    first = {"structures": crystals, "out": page}
    run(commands.command("report", commands.flags(first)), tmp_path)
    (block,) = re.findall("<pre>(# crystals from .*?)</pre>", page.read_text(), re.DOTALL)
    page.unlink()
    run(html.unescape(block), tmp_path)
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
