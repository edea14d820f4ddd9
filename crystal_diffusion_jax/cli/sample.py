"""Samples crystals from a trained model: samples.db, CIF files, samples.extxyz and samples.csv.

    python -m experiments.sample --model=perov5_cds --target=min --out=samples/min
    python -m experiments.sample --model=runs/perov5_cds --target=0.5:1 --out=samples/half

An interrupted command keeps every complete batch; the same command continues from there.
"""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.cli.request_flags import ALL, add_part, add_request_flags, requested
from crystal_diffusion_jax.cli.stopping import end_if_any, stopping_on_signals
from crystal_diffusion_jax.errors import require_between

if TYPE_CHECKING:
    from crystal_diffusion_jax.request import Request
    from crystal_diffusion_jax.trained_model import TrainedModel


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m experiments.sample", description=__doc__)
    flags.add_argument(
        "--model",
        type=Path,
        required=True,
        help="model folder, workdir of a training, or shipped model",
    )
    flags.add_argument("--out", type=Path, required=True, help="folder for the crystals")
    add_request_flags(flags, *ALL)
    add_part(flags)
    flags.add_argument(
        "--trajectory",
        type=int,
        metavar="K",
        help="keep every K-th state, in OUT/trajectories (default: none)",
    )
    return flags


def main() -> None:
    """Entry point: checks the request, then samples what its folder does not have yet."""
    with stopping_on_signals() as received:

        def log(line: str) -> None:
            print(line)
            end_if_any(received)

        flags = parser().parse_args()
        from crystal_diffusion_jax import trained_model
        from crystal_diffusion_jax.runtime import devices
        from crystal_diffusion_jax.runtime.lock import exclusive
        from crystal_diffusion_jax.sampling import trajectory
        from crystal_diffusion_jax.sampling.chains import steps_of
        from crystal_diffusion_jax.sampling.conditions import crystal_sizes
        from crystal_diffusion_jax.sampling.generate import generate
        from crystal_diffusion_jax.sampling.resolve import resolve
        from crystal_diffusion_jax.structures.export import CSV, summary
        from crystal_diffusion_jax.structures.store import Samples, create_folder

        require_between("batch_size", flags.batch_size, 1, math.inf)
        model = trained_model.load(flags.model)
        request = resolve(model, str(flags.model), **requested(flags))
        announce(request, model)
        if flags.trajectory is not None:
            trajectory.check_size(
                flags.trajectory, steps_of(request, model), crystal_sizes(request, model)
            )
        devices.data_mesh()  # a device that cannot be used is an error before there is a folder
        # Before the lock leaves its file in a folder that holds something else.
        create_folder(flags.out)
        with exclusive(flags.out, "--out", log):
            samples = Samples(flags.out, request, flags.part)
            try:
                generate(model, request, samples, flags.batch_size, log, flags.trajectory)
            finally:
                if len(received) < 2:  # after a second signal nothing is exported
                    samples.export()
            (written, rejected), (seconds, calls) = samples.counts(), samples.cost()
            reasons = "".join(f"; {why}: {count}" for why, count in samples.reasons().items())
        print(
            f"{written} of {request.num} crystals in {flags.out} ({rejected} rejected{reasons}), "
            f"{seconds:.0f} s, up to {calls} network calls per crystal"
        )
        for line in summary(flags.out / CSV):
            print(line)


def announce(request: "Request", model: "TrainedModel") -> None:
    """Prints what will not have the intended effect to stderr, and what the cells will hold."""
    from crystal_diffusion_jax.sampling.announcement import announcement
    from crystal_diffusion_jax.sampling.resolve import warnings

    for sentence in warnings(request, model):
        print(f"warning: {sentence}", file=sys.stderr)
    for line in announcement(request, model):
        print(line)
