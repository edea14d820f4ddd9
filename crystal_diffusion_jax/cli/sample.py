"""Samples crystals from a trained model: CIF files, samples.extxyz and samples.json.

    python -m experiments.sample --model=perov5_cds --target=min --out=samples/min
    python -m experiments.sample --model=runs/perov5_cds --target=0.5:1 --out=samples/half

An interrupted command keeps what it has written; the same command goes on from there.
"""

import argparse
import contextlib
import math
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.request import ANCESTRAL, SOLVERS
from crystal_diffusion_jax.runtime.lock import exclusive
from crystal_diffusion_jax.sampling import trajectory
from crystal_diffusion_jax.sampling.generate import generate
from crystal_diffusion_jax.sampling.plan import FEW_STEPS, plan, require_between
from crystal_diffusion_jax.sampling.record import SampleFolder, create_folder
from crystal_diffusion_jax.sampling.request import parse_target
from crystal_diffusion_jax.sampling.summary import summary
from crystal_diffusion_jax.structures.compositions import parse_elements


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
    flags.add_argument(
        "--target",
        default="none",
        help='requested property: "min" or "max" of the training data, a value in the property\'s '
        'unit, a range LOWEST:HIGHEST (drawn uniformly for each crystal), or "none"; for several '
        "properties NAME=VALUE,NAME=VALUE (default: %(default)s)",
    )
    flags.add_argument("--num", type=int, default=200, help="crystals (default: %(default)s)")
    flags.add_argument(
        "--guidance", type=float, default=0.0, help="0 is the paper's model (default: %(default)s)"
    )
    flags.add_argument(
        "--solver",
        choices=SOLVERS,
        default=ANCESTRAL,
        help="second_order is for few steps (default: %(default)s)",
    )
    flags.add_argument(
        "--num_steps",
        type=int,
        help=f"sampling steps (default: as trained; {FEW_STEPS} with --solver=second_order)",
    )
    flags.add_argument(
        "--corrector_step_size",
        type=float,
        help="step of the corrector, 0 saves it and half of the network calls (default: the "
        "config's; with --solver=second_order at least 0.32 frac_sigma_min^2)",
    )
    flags.add_argument(
        "--renoising_steps",
        type=int,
        metavar="K",
        help="instead of the corrector, where the structure is decided; 5 takes 1.5 times the "
        "calls (default: the config's; 0 with --corrector_step_size or second_order)",
    )
    flags.add_argument("--seed", type=int, default=0, help="of all noise (default: %(default)s)")
    flags.add_argument(
        "--batch_size", type=int, default=100, help="computed at once (default: %(default)s)"
    )
    flags.add_argument("--elements", help="only these, for example Ba,Ti,O (default: all)")
    flags.add_argument(
        "--chemical_system",
        metavar="SYSTEM",
        help="only these, and each of them, for example Ba-Ti-O; others are rejected",
    )
    flags.add_argument("--num_atoms", type=int, help="per crystal (default: as in the data)")
    flags.add_argument(
        "--charge_balance",
        action="store_true",
        help="draw species whose oxidation states can add up to zero",
    )
    flags.add_argument(
        "--symprec",
        type=float,
        default=0.1,
        help="tolerance in Angstrom for symmetrised CIF files; 0 writes P1 (default: %(default)s)",
    )
    flags.add_argument(
        "--trajectory",
        type=int,
        metavar="K",
        help="keep every K-th state on the way from noise, in OUT/trajectories (default: none)",
    )
    return flags


@contextlib.contextmanager
def stopping_on_sigterm() -> Iterator[None]:
    """Turns SIGTERM, as batch systems send it, into an orderly end with exit status 143.

    Python sees a signal between two operations; while crystals are computed that is after the
    batch.
    """

    def stop(signum: int, _frame: object) -> None:
        sys.exit(128 + signum)

    former = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def main() -> None:
    """Entry point."""
    with stopping_on_sigterm():
        sample(parser().parse_args())


def sample(flags: argparse.Namespace) -> None:
    """Checks the request, then samples what its folder does not hold yet.

    Raises:
      UserError: a flag that does not fit the model or the folder.
    """
    model = trained_model.load(flags.model)
    if flags.elements is not None and flags.chemical_system is not None:
        raise UserError("--elements and --chemical_system exclude each other: give one of them")
    elements, flag = flags.elements, "elements"
    if flags.chemical_system is not None:
        elements, flag = flags.chemical_system, "chemical_system"
    require_between("batch_size", flags.batch_size, 1, math.inf)
    planned = plan(
        model,
        str(flags.model),
        parse_target(flags.target, model.statistics),
        num=flags.num,
        seed=flags.seed,
        guidance=flags.guidance,
        solver=flags.solver,
        num_steps=flags.num_steps,
        corrector_step_size=flags.corrector_step_size,
        renoising_steps=flags.renoising_steps,
        elements=parse_elements(elements, model.statistics.vocabulary, flag),
        chemical_system=flags.chemical_system is not None,
        num_atoms=flags.num_atoms,
        symprec=flags.symprec,
        charge_balance=flags.charge_balance,
    )
    for sentence in planned.warnings:
        print(f"warning: {sentence}", file=sys.stderr)
    settings = planned.settings
    if flags.trajectory is not None:
        trajectory.check_size(flags.trajectory, settings.num_steps, planned.num_atoms)
    # Before the lock leaves its file in a folder that holds something else.
    create_folder(flags.out)
    with (
        exclusive(flags.out, "--out"),
        contextlib.closing(SampleFolder(flags.out, settings)) as folder,
    ):
        generate(
            model,
            settings,
            planned.allowed,
            folder,
            flags.batch_size,
            trajectory=flags.trajectory,
        )
        lines = summary(folder.structures())
    counts = folder.counts()
    reasons = "".join(f"; {why}: {n}" for why, n in counts["rejected_by_reason"].items())
    print(
        f"{counts['written']} of {counts['requested']} crystals in {flags.out} "
        f"({counts['rejected']} rejected{reasons}), {folder.seconds:.0f} s, "
        f"{folder.network_calls} network calls"
    )
    for line in lines:
        print(line)
