"""Shared by all commands: flags, error messages, exit status."""

import argparse
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from crystal_diffusion_jax.commands import as_called
from crystal_diffusion_jax.errors import UserError, did_you_mean
from crystal_diffusion_jax.runtime.files import replace_bytes, temporary_path

if TYPE_CHECKING:
    import numpy as np

_WIDTH = 100  # columns of a help text, which quotes module docstrings


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the examples and marks required flags."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size().columns, _WIDTH)
        super().__init__(prog, max_help_position=30, width=width)

    def _get_help_string(self, action: argparse.Action) -> str:
        return f"{action.help}, required" if action.required else action.help or ""


def add_structures(flags: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds --structures, the crystals that a command reads with `read_structures`."""
    flags.add_argument(
        "--structures",
        type=Path,
        required=required,
        help="crystals: a file or a folder of any mix (CIF, POSCAR, JSON, extxyz, ...), .zip, a "
        "csv with a column of them, or a folder of `sample`",
    )


class Parser(argparse.ArgumentParser):
    """Reports a mistake as a UserError instead of printing the usage.

    Flags must not be abbreviated: an abbreviation may become ambiguous in a later version.
    """

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=as_called(prog),
            description=as_called(description.strip()),
            usage="%(prog)s --flag=value ...",
            formatter_class=_Help,
            allow_abbrev=False,
        )
        self.register("type", Path, _path)

    @property
    def actions(self) -> list[argparse.Action]:
        """The flags except `--help`."""
        return [action for action in self._actions if action.dest != "help"]

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Reports an unknown flag before a missing one, which it usually causes."""
        known = [name for action in self.actions for name in action.option_strings]
        for argument in sys.argv[1:] if args is None else args:
            name = argument.partition("=")[0]
            if re.match("--?[A-Za-z]", name) and name not in (*known, "-h", "--help"):
                self.error(f"there is no flag {name}{did_you_mean(name, known)}")
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices: Iterable[Any] | None = action.choices
        if choices is not None and value not in choices:
            names = [str(choice) for choice in choices]
            self.error(
                f"{action.option_strings[0]}={value}: choose from {', '.join(names)}"
                f"{did_you_mean(str(value), names)}"
            )

    def error(self, message: str) -> NoReturn:
        """Raises the UserError that `run` prints."""
        raise UserError(f"{message} (see {self.prog} --help)")


def _path(text: str) -> Path:
    # Shells expand ~ at the beginning of an argument only, not after "--out=".
    return Path(os.path.expanduser(text))  # pathlib raises where there is no such user


def check_output(path: Path, flag: str = "out") -> None:
    """Creates the parent folders of an output file and checks that it can be written.

    Args:
      path: the file.
      flag: the flag that it comes from.

    Raises:
      UserError: the file cannot be written.
    """
    try:
        if path.is_dir():
            raise UserError(f"--{flag}={path} is a folder: give the name of a file.")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary_path(path).touch()
        temporary_path(path).unlink()
    except OSError as error:
        raise _cannot_write(path, flag, error) from error


def write_output(path: Path, content: str | bytes, flag: str = "out") -> None:
    """Writes an output file atomically.

    Raises:
      UserError: it cannot be written.
    """
    try:
        replace_bytes(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise _cannot_write(path, flag, error) from error


def add_to_samples(
    structures: Path,
    columns: Mapping[str, Sequence[float | str | bool | None]],
    data: "Mapping[int, Mapping[str, np.ndarray]] | None" = None,
) -> None:
    """Adds columns to the samples.db of a folder of `experiments.sample`, if there is one.

    Args:
      structures: the path given as --structures.
      columns: name -> value of every crystal, None or NaN for no value.
      data: index -> arrays of a crystal by name.

    A folder that cannot be written, or is being sampled into, gets a note instead.
    """
    if structures.name == "samples.db" or (structures / "samples.db").is_file():
        from crystal_diffusion_jax.structures import store

        try:
            store.add_columns(structures, columns, data)
        except UserError as error:
            print(f"note: {', '.join(columns)} not added to {structures}: {error}")
        else:
            print(f"added to {structures}: {', '.join(columns)}")


def _cannot_write(path: Path, flag: str, error: OSError) -> UserError:
    return UserError(
        f"--{flag}={path} cannot be written ({error.strerror}): choose another --{flag}."
    )


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether `--help` is among the arguments of a command."""
    return not {"-h", "--help"}.isdisjoint(arguments)


def _prepare_jax() -> None:
    """Sets up devices and the cache of programs, which must come before the first array."""
    from crystal_diffusion_jax.runtime import compilation, devices

    devices.use_every_core()
    compilation.keep_compiled_programs()


def run(main: Callable[[], None]) -> None:
    """Runs a command; a user's mistake ends it with a sentence instead of a traceback.

    A device that JAX_PLATFORMS requests and that does not exist counts as a mistake. Commands
    import what does the work, with JAX and pymatgen, in their functions: `--help` waits for none of
    it.

    Exit status: 0 success, 2 a user's mistake, 130 interrupted with Ctrl-C (128 + SIGINT), 1 an
    error of the program, with its traceback; commands that SIGTERM ends exit with 143 themselves.
    """
    try:
        if not asks_for_help(sys.argv[1:]):
            _prepare_jax()
        main()
    except UserError as error:
        print(f"error: {as_called(str(error))}", file=sys.stderr)
        sys.exit(2)
    except (AssertionError, RuntimeError) as error:
        from crystal_diffusion_jax.runtime import devices

        if (absence := devices.absence(error)) is None:
            raise
        print(f"error: {absence}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
