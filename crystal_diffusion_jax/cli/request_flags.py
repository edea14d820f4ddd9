"""The flags of a request: each is spelled here once, for every command that samples."""

import argparse
from typing import Any

from crystal_diffusion_jax.cli.program import Parser
from crystal_diffusion_jax.request import (
    FEW_STEPS,
    PREDICTION_RENOISING_STEPS,
    PREDICTION_STEPS,
    SOLVERS,
    TEMPLATE_START_TIME,
    Part,
)

# Keyword arguments of `sampling.resolve.resolve` -> those of `add_argument`.
_FLAGS: dict[str, dict[str, Any]] = {
    "target": {
        "default": "none",
        "help": 'requested property: "min" or "max" of the training data, a value in the '
        "property's unit, a range LOWEST:HIGHEST (drawn uniformly for each crystal), the name of a "
        'class, or "none"; for several properties NAME=VALUE,NAME=VALUE (default: %(default)s)',
    },
    "num": {
        "type": int,
        "default": 200,
        "help": "number of crystals, with --formula or --like of each formula (default: "
        "%(default)s)",
    },
    "formula": {
        "metavar": "FORMULAS",
        "help": "only crystals of these, for example TiO2,LiMnO2, or a csv with a column formula "
        "and, if you like, num_atoms, material_id and properties, which are targets of their row",
    },
    "formula_units": {
        "metavar": "Z",
        "help": 'formula units, as written, in the cell; "auto" draws them as in the training data '
        "(default: auto)",
    },
    "like": {
        "metavar": "DATA",
        "help": "only crystals with the compositions and cell sizes of a data set, DATASET:SPLIT "
        "or the path of a csv; with :N at its end of N of them, those that match --num=N chooses",
    },
    "start": {
        "metavar": "TEMPLATE",
        "help": '"template" starts from training crystals with exchanged elements instead of '
        f"noise, at diffusion time {TEMPLATE_START_TIME}; template:T at time T; needs --formula or "
        "--like",
    },
    "guidance": {
        "type": float,
        "default": 0.0,
        "help": "weight of classifier-free guidance; 0, as in the paper, disables it (default: "
        "%(default)s)",
    },
    "solver": {
        "choices": SOLVERS,
        "help": "second_order is for few steps (default: ancestral; second_order for formulas and "
        "chemical systems, if the model knows formulas)",
    },
    "num_steps": {
        "type": int,
        "help": f"sampling steps (default: as trained; {FEW_STEPS} with --solver=second_order; "
        f"{PREDICTION_STEPS} for formulas)",
    },
    "corrector_step_size": {
        "type": float,
        "metavar": "H",
        "help": "step size of the corrector; 0 disables it and saves half of the calls (default: "
        "the model's; with second_order at least 0.32 frac_sigma_min^2)",
    },
    "renoising_steps": {
        "type": int,
        "metavar": "K",
        "help": "instead of the corrector, at the times that decide on the structure; 5 take "
        "1.5 times the calls (default: the model's; 0 with --corrector_step_size or second_order; "
        f"{PREDICTION_RENOISING_STEPS} for formulas)",
    },
    "seed": {"type": int, "default": 0, "help": "seed of all noise (default: %(default)s)"},
    "elements": {"help": "only these elements, for example Ba,Ti,O (default: all)"},
    "chemical_system": {
        "metavar": "SYSTEM",
        "help": "only these elements, and each of them, for example Ba-Ti-O; a model that knows "
        "formulas draws neutral ones first, of another crystals that lack an element are rejected",
    },
    "num_atoms": {"type": int, "help": "atoms per crystal (default: as in the training data)"},
    "charge_balance": {
        "action": "store_true",
        "help": "draw species whose oxidation states can add up to zero, in cells of which that is "
        "possible",
    },
    "symprec": {
        "type": float,
        "default": 0.1,
        "help": "symmetry of the CIF files, Angstrom; 0 writes P1 (default: %(default)s)",
    },
}
ALL = tuple(_FLAGS)


def add_request_flags(parser: Parser, *names: str) -> None:
    """Adds these flags, and the batch size.

    Args:
      parser: the parser of a command.
      names: members of `ALL`.
    """
    for name in names:
        parser.add_argument(f"--{name}", **_FLAGS[name])
    parser.add_argument(
        "--batch_size",
        type=int,
        default=100,
        help="crystals computed at once (default: %(default)s)",
    )


def add_part(parser: Parser) -> None:
    """Adds --part, a share of the request."""
    parser.add_argument(
        "--part",
        type=parse_part,
        metavar="I/N",
        help="share I of N of the request, as one of N jobs; `merge` joins them",
    )


def parse_part(text: str) -> Part:
    """The part that I/N stands for.

    Raises:
      ArgumentTypeError: it is not one.
    """
    number, slash, count = text.partition("/")
    if slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
        return Part(int(number), int(count))
    raise argparse.ArgumentTypeError(
        f"{text} is not I/N with I from 1 to N, for example --part=1/4"
    )


def requested(flags: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `resolve` among the parsed flags."""
    return {name: getattr(flags, name) for name in ALL if hasattr(flags, name)}
