"""Importing this makes signatures with shapes checked in what is imported afterwards."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

_WITH_NUMBERS = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """beartype for functions whose signature has shapes; mypy checks the others.

    Not for dataclasses: JAX rebuilds them around whatever its trees hold.
    """
    shaped = "jaxtyping" in str(function.__annotations__) and function.__name__ != "__init__"
    return _WITH_NUMBERS(function) if shaped else function


install_import_hook(
    [f"crystal_diffusion_jax.{room}" for room in ("diffusion", "models", "oracles", "potentials")],
    "tests.shapes.check",
)
