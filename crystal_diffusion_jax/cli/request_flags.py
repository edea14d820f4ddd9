"""The flags of a request: each is spelled here once, for every command that samples."""

import argparse
import os
from typing import Any

from crystal_diffusion_jax.cli.program import Parser
from crystal_diffusion_jax.config import ANCESTRAL, SECOND_ORDER, SOLVERS
from crystal_diffusion_jax.request import (
    PAPER,
    PREDICTION_RENOISING_STEPS,
    PREDICTION_STEPS,
    Part,
)

# Keyword arguments of `sampling.resolve.resolve` -> those of `add_argument`.
_FLAGS: dict[str, dict[str, Any]] = {
    "target": {
        "default": "none",
        "help": "requested property: min, max, a value, a range LOWEST:HIGHEST, a class or none; "
        "of several NAME=VALUE,NAME=VALUE (default: %(default)s)",
    },
    "num": {
        "type": int,
        "default": 200,
        "help": "number of crystals, of each formula if they are given (default: %(default)s)",
    },
    "formula": {
        "type": os.path.expanduser,
        "metavar": "FORMULAS",
        "help": "only these, as TiO2,LiMnO2, or those of a csv with a column formula",
    },
    "formula_units": {
        "metavar": "Z",
        "help": "of the formula, in the cell; auto draws them (default: auto)",
    },
    "like": {
        "type": os.path.expanduser,
        "metavar": "DATA",
        "help": "formulas of DATASET:SPLIT or a csv; with :N at the end of N of them",
    },
    "start": {
        "metavar": "START",
        "help": "noise, template or template:T (default: the model's)",
    },
    "guidance": {
        "type": float,
        "default": 0.0,
        "help": "weight of classifier-free guidance; 0 disables it (default: %(default)s)",
    },
    "sampler": {
        "choices": (PAPER,),
        "metavar": "SAMPLER",
        "help": f"{PAPER}: its 1000 predictor-corrector steps (default: the model's)",
    },
    "solver": {
        "choices": SOLVERS,
        "metavar": "SOLVER",
        "help": f"{ANCESTRAL} or, as for formulas, {SECOND_ORDER} (default: the model's)",
    },
    "num_steps": {
        "type": int,
        "help": f"sampling steps (default: the model's; for formulas {PREDICTION_STEPS})",
    },
    "corrector_step_size": {
        "type": float,
        "metavar": "H",
        "help": "step size of the corrector; 0 disables it (default: the model's)",
    },
    "renoising_steps": {
        "type": int,
        "metavar": "K",
        "help": "instead of the corrector (default: the model's; for formulas "
        f"{PREDICTION_RENOISING_STEPS})",
    },
    "averaging_rounds": {
        "type": int,
        "metavar": "K",
        "help": "of averaged denoising at the end (default: the model's)",
    },
    "seed": {"type": int, "default": 0, "help": "seed of all noise (default: %(default)s)"},
    "elements": {"help": "only these elements, for example Ba,Ti,O (default: all)"},
    "chemical_system": {
        "metavar": "SYSTEM",
        "help": "only these elements, and each of them, for example Ba-Ti-O",
    },
    "num_atoms": {"type": int, "help": "atoms per crystal (default: as in the training data)"},
    "charge_balance": {
        "action": "store_true",
        "help": "draw species whose oxidation states can add up to zero",
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
