"""Writes the reference of all programs of this folder, from their own flags, as Markdown.

    python -m experiments.commands --out=docs/commands.md
    python -m experiments.commands --out=/tmp/commands.md

The tests compare docs/commands.md with what the programs say.
"""

import argparse
import importlib
from pathlib import Path
from types import ModuleType

from absl import flags as absl_flags

from crystal_diffusion_jax.cli import program

_HEAD = """# Commands

Made by `python -m experiments.commands --out=docs/commands.md`; `--help` of each program says the
same. Exit status: 0 done, 1 an error of the program, 2 a mistake that one sentence explains, 130
ended by Ctrl-C, 143 by SIGTERM.

"""


def programs() -> list[str]:
    """Names of the modules of this folder that can be run."""
    folder = Path(__file__).parent.parent / "experiments"
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


def rows(module: ModuleType) -> list[tuple[str, str]]:
    """Flag and meaning of each flag of a program."""
    if hasattr(module, "parser"):
        return [_row_of_argparse(action) for action in module.parser().actions]
    return [
        _row_of_absl(flag)
        for flag in absl_flags.FLAGS.get_key_flags_for_module(module.__name__)
        if not flag.name.startswith("config.")
    ]


def _row_of_argparse(action: argparse.Action) -> tuple[str, str]:
    (name,) = action.option_strings
    meaning = (action.help or "") % vars(action) + (", required" if action.required else "")
    if action.nargs == 0:
        return name, meaning
    if action.choices is not None:
        return f"{name}={'|'.join(map(str, action.choices))}", meaning
    value = str(action.metavar or action.dest.upper())
    return (f"{name} {value} ..." if action.nargs == "+" else f"{name}={value}"), meaning


def _row_of_absl(flag: absl_flags.Flag) -> tuple[str, str]:
    if flag.boolean:
        return f"--{flag.name}", flag.help
    return f"--{flag.name}={flag.name.upper()}", flag.help


def page() -> str:
    """The whole reference."""
    modules = {
        name: importlib.import_module(f"crystal_diffusion_jax.cli.{name}") for name in programs()
    }
    text = _HEAD
    for name, module in modules.items():
        title = (module.__doc__ or "").splitlines()[0]
        text += f"- [`experiments.{name}`](#{name}): {title}\n"
    for name, module in modules.items():
        text += (
            f"\n## {name}\n\n{(module.__doc__ or '').strip()}\n\n| flag | meaning |\n|---|---|\n"
        )
        for flag, meaning in rows(module):
            text += f"| `{_cell(flag)}` | {_cell(meaning)} |\n"
    return text


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m experiments.commands", description=__doc__)
    flags.add_argument("--out", type=Path, required=True, help="Markdown file")
    return flags


def main() -> None:
    """Entry point."""
    flags = parser().parse_args()
    program.check_output(flags.out)
    program.write_output(flags.out, page())
    print(f"reference in {flags.out}")


if __name__ == "__main__":
    program.run(main)
