"""Inverse design of crystals: a joint diffusion over lattice, coordinates and species, in pure JAX.

The pipeline (paper: Takahara, Shibata, Mizoguchi, arXiv:2406.09263):

  data.load         csv or cif files -> checked, canonical arrays (CrystalDataset)
  data.batches      arrays -> Crystals, padded batches that depend on (seed, step) alone
  diffusion         lattice (DDPM), frac_coords (wrapped normal), species (D3PM): noise and back
  models            Transformer denoiser, conditioned on properties: none, cdi or cds
  training          loss, one jitted step, checkpoints, the loop; ends in a model folder
  sampling          predictor-corrector sampler as one lax.scan, with classifier-free guidance
  structures        sampled arrays -> samples.db, cif, extxyz, csv; readers of these formats

Axes: B crystals, N atoms (padded), K species of the vocabulary, T noise steps, D width, H heads,
M Fourier orders, P properties.

From Python: `discover`, `load`, `match`, `oracle`, `potential`, `relax` and `success_rate`, see
`api`; the package alone imports no jax.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crystal_diffusion_jax.api import (
        discover,
        load,
        match,
        oracle,
        potential,
        relax,
        success_rate,
    )

# Before JAX is loaded. At every program read from the compilation cache XLA would print a page on
# tuning preferences that it mistakes for missing instructions (jax-ml/jax#38445).
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

__version__ = "0.1.0"

__all__ = ["discover", "load", "match", "oracle", "potential", "relax", "success_rate"]


def __getattr__(name: str) -> Any:
    """Imports the interface when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.api"), name)
