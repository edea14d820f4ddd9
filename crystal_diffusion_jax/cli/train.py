"""Trains a model, or resumes a run: all that an interrupted run needs is the same command.

SIGTERM, with which clusters preempt a job, makes it write a checkpoint and end with status 143.

    python -m experiments.train --config=configs/perov5_cds.py --workdir=runs/perov5_cds
    python -m experiments.train --config=configs/quickstart.py:smoke --workdir=runs/smoke

Any field can be overridden, for example --config.training.num_steps=5000. Several processes train
one model together with --distributed, or --coordinator and the numbers; see docs/scaling.md.
"""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

import configs
from crystal_diffusion_jax import config as config_module
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.errors import UserError, nearest
from crystal_diffusion_jax.runtime import processes
from crystal_diffusion_jax.trained_model import example_target
from crystal_diffusion_jax.training.loop import train
from crystal_diffusion_jax.training.preemption import Preempted

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment, a file of configs/.")
flags.DEFINE_string("workdir", None, "Folder of this run; an interrupted run resumes.")
flags.DEFINE_bool(
    "resume_from_previous", False, "Go back to an earlier checkpoint if the last one is damaged."
)
flags.DEFINE_bool("distributed", False, "Join the other processes of a TPU pod, Slurm or Open MPI.")
flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where nothing is detected.")
flags.DEFINE_integer("num_processes", None, "Processes in all, with --coordinator.")
flags.DEFINE_integer("process_id", None, "Number of this process from 0, with --coordinator.")


def find_config(argument: str) -> str:
    """The same argument, or, for --config=configs/NAME.py away from the repository, with its path.

    A file of that name in the present folder comes first.
    """
    flag, equals, value = argument.partition("=")
    path, colon, variant = value.partition(":")
    if flag not in ("--config", "-config") or Path(path).exists():
        return argument
    installed = Path(configs.__file__).parent / Path(path).name
    if Path(path).parent != Path("configs") or not installed.is_file():
        return argument
    return f"{flag}{equals}{installed}{colon}{variant}"


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with every mistake as one sentence.

    Raises:
      UserError: an unknown flag, a config file that is not there or refuses its variant, a field
        that the config lacks, or a value of the wrong type.
    """
    try:
        app.define_help_flags()
        rest: list[str] = flags.FLAGS([find_config(argument) for argument in argv])
        if len(rest) > 1:
            raise UserError(f"unexpected argument {rest[1]!r}; flags look like --workdir=runs/name")
        for name in ("config", "workdir"):
            if not flags.FLAGS[name].value:
                raise UserError(f"--{name} is missing")
        _CONFIG.value.to_dict()  # a missing file goes unnoticed until the config is used
    except SystemExit:
        sys.exit(0)  # absl's --help ends as if it were a mistake
    except (
        flags.Error,
        AttributeError,
        KeyError,
        OSError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise UserError(f"{_sentence(error)} (see python -m experiments.train --help)") from error
    return rest


def _sentence(error: Exception) -> str:
    """The gist of an error of absl or ml_collections, which can hold lines of traceback."""
    detail: object = error
    while isinstance(detail, AttributeError | KeyError):  # they wrap one another
        detail = detail.args[0]
    lines = [line.strip() for line in str(detail).strip().splitlines()]
    if isinstance(error, OSError):
        file = Path(lines[-1].split("'")[-2]) if "'" in lines[-1] else Path()
        known = [path.stem for path in Path(configs.__file__).parent.glob("*.py")]
        meant = nearest(file.stem, known)
        suggestion = f"; did you mean configs/{meant}.py?" if meant else ""
        return f"--config cannot be loaded: {lines[-1]}{suggestion}"
    text = " ".join(dict.fromkeys((lines[0], lines[-1])))
    if isinstance(error, AttributeError | KeyError):
        return f"--config has no such field: {text}"
    return text


def run(argv: list[str]) -> None:
    """Joins the other processes if there are any, loads the data and trains."""
    del argv
    if not flags.FLAGS["verbosity"].present:
        # The libraries' reports of every checkpoint file would bury the progress lines, and their
        # tracebacks from several threads the one sentence about a disk that fails.
        logging.set_verbosity(logging.FATAL)
    values = flags.FLAGS
    meeting = (values.coordinator, values.num_processes, values.process_id)
    if not values.distributed and meeting == (None, None, None):
        run_training()
        return
    processes.join(*meeting)
    with leaving_at_once():
        run_training()


def run_training() -> None:
    """Loads the data and trains."""
    config = config_module.from_dict(_CONFIG.value.to_dict())
    splits = processes.everywhere(lambda: load(config.data, progress=processes.is_first()))
    workdir = Path(flags.FLAGS.workdir)
    folder = train(config, splits, workdir, resume_from_previous=flags.FLAGS.resume_from_previous)
    if processes.is_first():
        print(f"trained model: {folder}")
        target = example_target(config.model.conditioning, splits["train"].property_names)
        print(
            f"sample from it with: python -m experiments.sample --model={workdir} "
            f"--target={target} --num=200 --out=samples/{workdir.name}"
        )


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
    """Says an error and ends this process without the usual farewell to the others.

    The farewell waits for the others, and they would wait for this process in a collective. Once
    it has gone they are ended by the runtime.
    """
    try:
        yield
    except Preempted:
        # All processes end alike, so the farewell finds them unless a second signal ends one.
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
