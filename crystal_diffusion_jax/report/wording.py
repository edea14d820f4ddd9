"""The request and the versions behind a page, in words."""

import platform

import jax
import numpy as np

from crystal_diffusion_jax import __version__
from crystal_diffusion_jax.data.datasets import DatasetSpec
from crystal_diffusion_jax.request import Request
from crystal_diffusion_jax.structures.database import StoredRequest

_MAX_FORMULAS = 10  # named in the sentence


def asked_in_words(request: Request | None, num: int) -> list[float | str]:
    """What was asked of each of `num` crystals, of properties that nothing here predicts."""
    if request is None:
        return [""] * num
    values, classes = request.values(), [own for _, own in request.targets()]
    return [
        ", ".join(
            f"{name} = {classes[index // request.num_each].get(name) or format(each[index], '.6g')}"
            for name, each in values.items()
            if not np.isnan(each[index])
        )
        for index in range(num)
    ]


def describe(request: Request, spec: DatasetSpec | None) -> str:
    """The request in a sentence, with units where they are known."""
    targets = []
    for name, (low, high) in request.target.items():
        unit = f" {spec.unit}" if spec is not None and name == spec.property_name else ""
        values = f"{low:.6g} to {high:.6g}" if low < high else f"{low:.6g}"
        values = request.classes.get(name, values)
        targets.append(f"{name} = {values}{unit}")
    formulas = [each.formula for each in request.formulas]
    if len(formulas) > _MAX_FORMULAS:
        formulas[_MAX_FORMULAS:] = [f"{len(formulas) - _MAX_FORMULAS} more formulas"]
    if formulas:
        own = dict.fromkeys(name for each in request.formulas for name in each.target)
        each_its = f", some with a {' and a '.join(own)} of their own" if own else ""
        targets.insert(0, f"structures of {', '.join(formulas)}{each_its}")
    options = [f"guidance {request.guidance:g}"] if request.guidance else []
    options += ["balanced charges"] if request.charge_balance else []
    return (
        f"Requested from {request.model}: {', '.join(targets) or 'no particular property'}"
        f"{' with ' if options else ''}{' and '.join(options)}."
    )


def versions(stored: StoredRequest | None) -> str:
    """Of the packages that sampled the crystals, if known, and that made the page."""
    sampled = ""
    if stored is not None:
        packages = ", ".join(f"{name} {version}" for name, version in stored.versions.items())
        digest = stored.request.model_sha256[:12]
        sampled = f"Sampled with {packages}; weights {digest} (sha256). "
    return (
        f"{sampled}Report by crystal_diffusion_jax {__version__}, jax {jax.__version__}, numpy "
        f"{np.__version__}, Python {platform.python_version()}, {platform.machine()}"
    )
