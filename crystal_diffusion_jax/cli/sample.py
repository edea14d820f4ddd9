"""Samples crystals from a trained model: samples.db, CIF files, samples.extxyz and samples.csv.

    python -m experiments.sample --model=perov5_cds --target=min --out=samples/min
    python -m experiments.sample --model=runs/perov5_cds --target=0.5:1 --out=samples/half

An interrupted command keeps every complete batch; the same command continues from there.
"""

import argparse
import contextlib
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.cli.request_flags import ALL, add_request_flags, requested
from crystal_diffusion_jax.errors import require_between
from crystal_diffusion_jax.runtime.lock import exclusive
from crystal_diffusion_jax.sampling import trajectory
from crystal_diffusion_jax.sampling.conditions import crystal_sizes
from crystal_diffusion_jax.sampling.generate import generate
from crystal_diffusion_jax.sampling.resolve import resolve, warnings
from crystal_diffusion_jax.structures.export import CSV, summary
from crystal_diffusion_jax.structures.store import Samples, create_folder


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m experiments.sample", description=__doc__)
    flags.add_argument(
        "--model",
        type=Path,
        required=True,
        help="model folder, workdir of a training, or name of a shipped model",
    )
    flags.add_argument("--out", type=Path, required=True, help="folder for the crystals")
    add_request_flags(flags, *ALL)
    flags.add_argument(
        "--trajectory",
        type=int,
        metavar="K",
        help="keep every K-th state on the way from noise, in OUT/trajectories (default: none)",
    )
    return flags


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[list[int]]:
    """Lets SIGTERM and Ctrl-C end the command after the current batch; a second signal, at once.

    An exception raised by the signal handler itself could get lost in the hook that jax installs in
    the garbage collector, where much of the time is spent.

    Yields:
      The signals received so far.
    """
    received: list[int] = []

    def handle(signum: int, _frame: object) -> None:
        received.append(signum)
        if len(received) > 1:
            end_if_any(received)
        # Not print, which the signal may have interrupted.
        os.write(2, b"ending after this batch; a second signal ends at once\n")

    former = {each: signal.signal(each, handle) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for each, handler in former.items():
            signal.signal(each, handler)


def end_if_any(signals: Sequence[int]) -> None:
    """Ends the command if signals were received.

    Raises:
      SystemExit: on SIGTERM, with exit status 143.
      KeyboardInterrupt: on Ctrl-C.
    """
    if signal.SIGTERM in signals:
        sys.exit(128 + signal.SIGTERM)
    if signals:
        raise KeyboardInterrupt


def main() -> None:
    """Entry point."""
    with stopping_on_signals() as received:

        def log(line: str) -> None:
            print(line)
            end_if_any(received)

        sample(parser().parse_args(), log, received)


def sample(
    flags: argparse.Namespace, log: Callable[[str], None], signals: Sequence[int] = ()
) -> None:
    """Checks the request, then samples what its folder does not have yet.

    Args:
      flags: the parsed flags.
      log: takes a progress line after each batch.
      signals: those received so far; after the second, nothing is exported.

    Raises:
      UserError: a flag that does not fit the model or the folder.
    """
    require_between("batch_size", flags.batch_size, 1, math.inf)
    model = trained_model.load(flags.model)
    request = resolve(model, str(flags.model), **requested(flags))
    for sentence in warnings(request, model.statistics):
        print(f"warning: {sentence}", file=sys.stderr)
    if flags.trajectory is not None:
        trajectory.check_size(flags.trajectory, request.num_steps, crystal_sizes(request, model))
    # Before the lock leaves its file in a folder that holds something else.
    create_folder(flags.out)
    with exclusive(flags.out, "--out", log):
        samples = Samples(flags.out, request)
        try:
            generate(model, request, samples, flags.batch_size, log, flags.trajectory)
        finally:
            if len(signals) < 2:
                samples.export()
        (written, rejected), (seconds, calls) = samples.counts(), samples.cost()
        reasons = "".join(f"; {why}: {count}" for why, count in samples.reasons().items())
    print(
        f"{written} of {request.num} crystals in {flags.out} ({rejected} rejected{reasons}), "
        f"{seconds:.0f} s, {calls} network calls per crystal"
    )
    for line in summary(flags.out / CSV):
        print(line)
