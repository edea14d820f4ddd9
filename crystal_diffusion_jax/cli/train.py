"""Trains a model, or resumes an interrupted run: give the same command again.

    python -m experiments.train --config=perov5_cds --workdir=runs/perov5_cds
    python -m experiments.train --config=configs/perov5_cds.py:smoke --workdir=runs/smoke

--config takes the name of a config that comes with the package, or the path of a file, and after a
colon a variant. Any field can be overridden, for example --config.training.num_steps=5000;
--show_config prints them all. On SIGTERM, which clusters send to preempt a job, the run writes a
checkpoint and exits with status 143. Several processes train one model together with
--distributed, or --coordinator and the numbers; see docs/scaling.md.
"""

import contextlib
import logging as standard_logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

import crystal_diffusion_jax
from crystal_diffusion_jax import commands
from crystal_diffusion_jax import config as config_module
from crystal_diffusion_jax.cli.program import asks_for_help
from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.errors import UserError, did_you_mean

# In an installed package and in a clone.
_PACKAGE = Path(crystal_diffusion_jax.__file__).parent
CONFIG_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment: NAME or FILE, or NAME:VARIANT or FILE:VARIANT."
)
flags.DEFINE_string("workdir", None, "Folder of this run; an interrupted run resumes.")
flags.DEFINE_bool("show_config", False, "Print every field with its documentation, and exit.")
flags.DEFINE_bool(
    "resume_from_previous", False, "Go back to an earlier checkpoint if the last one is damaged."
)
flags.DEFINE_bool("distributed", False, "Join the other processes of a TPU pod, Slurm or Open MPI.")
flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, if nothing is detected.")
flags.DEFINE_integer("num_processes", None, "Number of processes, with --coordinator.")
flags.DEFINE_integer("process_id", None, "Number of this process from 0, with --coordinator.")


def find_config(value: str) -> str:
    """The value of --config with a name replaced by the path of its file.

    Args:
      value: "perov5_cds", "perov5_cds:smoke", or the path of a file, again with or without a
        variant. An existing file takes precedence; "configs/perov5_cds.py" works from any folder.

    Raises:
      UserError: there is no such config.
    """
    value = os.path.expanduser(value)
    path, colon, variant = value.partition(":")
    if Path(path).is_file():
        return value
    name = Path(path).stem
    known = {file.stem: file for folder in CONFIG_FOLDERS for file in folder.glob("[!_]*.py")}
    if path in (name, f"configs/{name}.py") and name in known:
        return f"{known[name]}{colon}{variant}"
    from crystal_diffusion_jax.trained_model import OLD_NAMES

    if name in OLD_NAMES:
        raise UserError(f"--config={value}: {name} is now {OLD_NAMES[name]}")
    raise UserError(
        f"--config={value} is neither a file nor one of {', '.join(sorted(known))}"
        f"{did_you_mean(name, known)}"
    )


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with every mistake reported in one sentence.

    Raises:
      UserError: an unknown flag, a config that does not exist or lacks the variant, a field that
        the config lacks, or a value of the wrong type.
    """
    if asks_for_help(argv):
        print(f"{__doc__}\n{flags.FLAGS.module_help(__name__)}")
        sys.exit(0)
    for index, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag in ("--config", "-config") and value:
            argv[index] = flag + equals + find_config(value)
    try:
        rest: list[str] = flags.FLAGS(argv)
        if len(rest) > 1:
            raise UserError(f"unexpected argument {rest[1]!r}; flags look like --workdir=runs/name")
        required = ("config",) if flags.FLAGS.show_config else ("config", "workdir")
        for name in required:
            if not flags.FLAGS[name].value:
                raise UserError(f"--{name} is missing")
        _CONFIG.value.to_dict()  # errors in the config file surface only on access
    except (
        flags.Error,
        AttributeError,
        KeyError,
        OSError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise UserError(f"{_summary(error)} (see python -m experiments.train --help)") from error
    return rest


def _summary(error: Exception) -> str:
    """One line of an error from absl or ml_collections, which can contain a traceback."""
    detail: object = error
    while isinstance(detail, AttributeError | KeyError):  # they wrap one another
        detail = detail.args[0]
    lines = [line.strip() for line in str(detail).strip().splitlines()]
    text = " ".join(dict.fromkeys((lines[0], lines[-1])))
    if isinstance(error, AttributeError | KeyError):
        return f"--config has no such field: {text}"
    # What the config file itself says, e.g. of an unknown variant.
    _, parsing, reason = text.partition("Error whilst parsing config file: ")
    return f"--config: {reason.partition(': ')[2]}" if parsing else text


def run(argv: list[str]) -> None:
    """Joins the other processes if there are any, and trains."""
    del argv
    values = flags.FLAGS
    config = config_module.from_dict(_CONFIG.value.to_dict())
    if values.show_config:
        print(config_module.describe(config))
        return
    if not values["verbosity"].present:
        # The libraries' messages about every checkpoint file would bury the progress lines.
        logging.set_verbosity(logging.FATAL)
        # What `load` says of the data is for the user, as `prepare` prints it.
        standard_logging.getLogger(crystal_diffusion_jax.__name__).setLevel("WARNING")
        logging.get_absl_handler().setFormatter(standard_logging.Formatter("%(message)s"))
    address = (values.coordinator, values.num_processes, values.process_id)
    if not values.distributed and address == (None, None, None):
        load_and_train(config)
        return
    from crystal_diffusion_jax.runtime import processes

    processes.join(*address)
    with exiting_at_once():
        load_and_train(config)


def load_and_train(config: ExperimentConfig) -> None:
    """Loads the data, trains, and prints how to sample.

    Raises:
      SystemExit: preempted, after writing a checkpoint, with exit status 143.
    """
    from crystal_diffusion_jax.data.load import load
    from crystal_diffusion_jax.runtime import processes
    from crystal_diffusion_jax.runtime.heartbeat import Heartbeat
    from crystal_diffusion_jax.trained_model import example_request
    from crystal_diffusion_jax.training.loop import train
    from crystal_diffusion_jax.training.preemption import Preempted

    first = processes.is_first()
    log = print if first else lambda line: None
    with Heartbeat(log) as heartbeat, heartbeat.doing("reading the data"):
        splits = processes.everywhere(lambda: load(config.data, first, ("train", "val")))
    values = flags.FLAGS
    workdir = Path(os.path.expanduser(values.workdir))
    try:
        folder = train(config, splits, workdir, resume_from_previous=values.resume_from_previous)
    except Preempted as ended:
        if first:
            print(ended, flush=True)
        sys.exit(128 + signal.SIGTERM)
    if first:
        print(f"trained model: {folder}")
        train_split = splits["train"]
        example = example_request(config, train_split.property_names, train_split.class_names)
        given = {"model": workdir} | example | {"out": Path("samples", workdir.name)}
        print(f"sample from it with: {commands.next_command('sample', commands.flags(given))}")


@contextlib.contextmanager
def exiting_at_once() -> Iterator[None]:
    """Reports an error and ends this process without jax.distributed's shutdown.

    The shutdown would wait for the other processes, which wait for this one in a collective
    operation. Once this process is gone, the runtime ends them.
    """
    try:
        yield
    except SystemExit:
        # All processes are preempted alike, so the shutdown succeeds unless a second signal ends
        # one.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise
    except BaseException as error:
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2 if isinstance(error, UserError) else 1)


def main() -> None:
    """Entry point."""
    app.run(run, argv=sys.argv, flags_parser=parse_flags)
