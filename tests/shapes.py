"""Importing this checks the shapes and types in the signatures of what is imported afterwards."""

from collections.abc import Callable
from typing import Any

from beartype import beartype
from jaxtyping import install_import_hook


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """beartype, except for dataclasses: JAX rebuilds them around whatever its trees hold."""
    return function if function.__name__ == "__init__" else beartype(function)


install_import_hook(
    [f"crystal_diffusion_jax.{room}" for room in ("diffusion", "models", "oracle")],
    "tests.shapes.check",
)
