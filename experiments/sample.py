"""Samples crystals from a trained model: CIF files, samples.extxyz and samples.json.

    python -m experiments.sample --model=runs/perov5_cds --target=min --num=200 --out=samples/min

An interrupted command keeps what it has written; the same command goes on from there.
"""

import argparse
import contextlib
import math
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pymatgen.core import Element

from crystal_diffusion_jax import model_folder
from crystal_diffusion_jax.data.limits import MAX_CRYSTALS
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.lock import exclusive
from crystal_diffusion_jax.sampling import trajectory
from crystal_diffusion_jax.sampling.generate import generate
from crystal_diffusion_jax.sampling.record import SampleFolder, create_folder
from crystal_diffusion_jax.sampling.request import (
    allowed_species,
    draw_num_atoms,
    draw_values,
    outside_training_range,
    parse_target,
    refuse_non_finite_weights,
)
from crystal_diffusion_jax.sampling.settings import (
    ANCESTRAL,
    SECOND_ORDER,
    SOLVERS,
    SampleSettings,
)
from crystal_diffusion_jax.sampling.summary import summary
from experiments import cli

# With so many second-order steps, and a corrector whose step is this share of sigma^2, crystals are
# as good as those of the whole chain (docs/few_step_sampling.md).
FEW_STEPS = 50
FEW_STEPS_CORRECTOR = 0.32


def parser() -> cli.Parser:
    """The flags."""
    flags = cli.Parser(prog="python -m experiments.sample", description=__doc__.splitlines()[0])
    flags.add_argument("--model", type=Path, required=True, help="model folder or training workdir")
    flags.add_argument("--out", type=Path, required=True, help="folder for the crystals")
    flags.add_argument(
        "--target",
        default="none",
        help='requested property: "min" or "max" of the training data, a value in the property\'s '
        'unit, a range LOWEST:HIGHEST (drawn uniformly for each crystal), or "none"; for several '
        "properties NAME=VALUE,NAME=VALUE (default: %(default)s)",
    )
    flags.add_argument("--num", type=int, default=200, help="crystals (default: %(default)s)")
    flags.add_argument("--guidance", type=float, default=0.0, help="weight (default: %(default)s)")
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
        "--gamma",
        type=float,
        help="step of the corrector, 0 saves it and half of the network calls (default: the "
        "config's; larger with --solver=second_order)",
    )
    flags.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    flags.add_argument("--batch_size", type=int, default=100, help="(default: %(default)s)")
    flags.add_argument("--elements", help="only these, for example Ba,Ti,O (default: all)")
    flags.add_argument("--num_atoms", type=int, help="per crystal (default: as in the data)")
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


def atomic_numbers(elements: str | None, vocabulary: Sequence[int]) -> list[int] | None:
    """ "Ba,Ti,O" -> [56, 22, 8].

    Raises:
      UserError: a symbol that names no element, or none of the model's vocabulary.
    """
    if elements is None:
        return None
    numbers = []
    for symbol in (part.strip() for part in elements.split(",")):
        if not Element.is_valid_symbol(symbol):
            raise UserError(f"--elements={elements}: {symbol!r} is no element symbol")
        if Element(symbol).Z not in vocabulary:
            known = ",".join(Element.from_Z(z).symbol for z in vocabulary)
            raise UserError(f"--elements={elements}: the model never saw {symbol}, only {known}")
        numbers.append(Element(symbol).Z)
    return numbers


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
    model = model_folder.load(flags.model)
    refuse_non_finite_weights(model.params, flags.model)
    trained_steps = model.config.noise.num_steps
    default_steps, default_gamma = trained_steps, model.config.sampling.gamma
    if flags.solver == SECOND_ORDER:
        default_steps = min(FEW_STEPS, trained_steps)
        few_gamma = FEW_STEPS_CORRECTOR * model.config.noise.frac_sigma_min**2
        default_gamma = max(few_gamma, default_gamma)
    num_steps = default_steps if flags.num_steps is None else flags.num_steps
    gamma = default_gamma if flags.gamma is None else flags.gamma
    for name, value, low, high in (
        ("num", flags.num, 1, MAX_CRYSTALS),
        ("batch_size", flags.batch_size, 1, math.inf),
        ("num_steps", num_steps, 1, trained_steps),
        ("seed", flags.seed, 0, 2**31 - 1),
        ("guidance", flags.guidance, -math.inf, math.inf),
        ("gamma", gamma, 0, math.inf),
        ("symprec", flags.symprec, 0, math.inf),
    ):
        if not (math.isfinite(value) and low <= value <= high):
            limits = f"at least {low}" if high == math.inf else f"within {low} .. {high}"
            raise UserError(f"--{name}={value} must be {'finite' if low == -high else limits}")
    # Refused here, because from then on the output folder belongs to the request.
    numbers = atomic_numbers(flags.elements, model.statistics.vocabulary)
    allowed = allowed_species(numbers, model.statistics)
    target = parse_target(flags.target, model.statistics)
    values = draw_values(target, flags.num, flags.seed)
    num_atoms = draw_num_atoms(values, flags.num, flags.seed, flags.num_atoms, model.statistics)
    if flags.trajectory is not None:
        trajectory.check_size(flags.trajectory, num_steps, num_atoms)
    if target and model.config.model.conditioning == "none":
        raise UserError(f"{flags.model} was trained without a condition; use --target=none")
    if flags.guidance and not target:
        raise UserError("--guidance steers towards a target, and --target=none asks for none")
    knows_null = model.config.loss.condition_dropout > 0
    needs_null = flags.guidance != 0 or set(target) != set(model.statistics.property_names)
    if model.config.model.conditioning != "none" and needs_null and not knows_null:
        raise UserError(
            f"{flags.model} was trained with condition_dropout=0, so it knows no crystals without "
            "a target: ask for every property, with --guidance=0"
        )
    for sentence in outside_training_range(target, model.statistics):
        print(f"warning: {sentence}", file=sys.stderr)
    settings = SampleSettings(
        model=str(flags.model),
        model_sha256=model.weights_sha256,
        conditions={
            name: list(asked) if asked[0] < asked[1] else asked[0] for name, asked in target.items()
        },
        num=flags.num,
        seed=flags.seed,
        guidance=flags.guidance,
        num_steps=num_steps,
        gamma=gamma,
        elements=None if numbers is None else sorted({Element.from_Z(z).symbol for z in numbers}),
        num_atoms=flags.num_atoms,
        symprec=flags.symprec,
        solver=flags.solver,
    )
    # Before the lock leaves its file in a folder that holds something else.
    create_folder(flags.out)
    with (
        exclusive(flags.out, "--out"),
        contextlib.closing(SampleFolder(flags.out, settings)) as folder,
    ):
        generate(model, settings, allowed, folder, flags.batch_size, trajectory=flags.trajectory)
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


if __name__ == "__main__":
    cli.run(main)
