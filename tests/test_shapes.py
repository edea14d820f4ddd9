"""The shapes in signatures are complete, and checked in all tests."""

import importlib
import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from crystal_diffusion_jax.diffusion.coordinates import mean_free

ROOT = Path(__file__).parent.parent
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for room in ("diffusion", "models")
    for path in sorted((ROOT / "crystal_diffusion_jax" / room).glob("[a-z]*.py"))
]


@pytest.mark.parametrize("name", MODULES)
def test_every_array_in_a_signature_has_a_shape(name):
    module = importlib.import_module(name)
    own = [thing for thing in vars(module).values() if getattr(thing, "__module__", "") == name]
    calls = [vars(thing).get("__call__") for thing in own if inspect.isclass(thing)]
    for thing in own + calls:
        bare = [
            key for key, kind in getattr(thing, "__annotations__", {}).items() if kind is jax.Array
        ]
        assert not bare, f"{name}.{thing.__qualname__}: {bare}"


def test_a_wrong_shape_is_refused():
    with pytest.raises(jaxtyping.TypeCheckError, match="mask"):
        mean_free(jnp.zeros((2, 5, 3)), jnp.ones((2, 4), bool))
