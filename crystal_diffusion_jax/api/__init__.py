"""The Python interface for notebooks and scripts, available from the package itself.

>>> import crystal_diffusion_jax as cdj
>>> model = cdj.load("perov5_cds")
>>> crystals = model.sample(num=4, target="min", guidance=1.0, seed=0, num_steps=20)
>>> len(crystals) + len(crystals.rejected)
4
>>> len(crystals.to_pymatgen()[0]), len(crystals.to_ase()[0])
(5, 5)
>>> crystals.values["heat_ref"].shape == (len(crystals),)
True

`cdj.oracle("perov5").predict(crystals)` gives the predicted property of each crystal, and
`cdj.success_rate(crystals, "perov5")["SR5"].value` the share that reaches the best 5 % of the data
set. `cdj.relax(crystals)` moves atoms and cells downhill in energy, and
`cdj.potential().predict(crystals)` gives energies and forces as they are. `cdj.discover(...)` does
all of it and gives a table of the best. The weights of oracles and potential are downloaded once.
"""

# Only models are loaded with this package; its functions import the rest when they are called.
from crystal_diffusion_jax.api.arguments import Asked, Crystal, Crystals
from crystal_diffusion_jax.api.judges import (
    Oracle,
    Potential,
    oracle,
    potential,
    relax,
    success_rate,
)
from crystal_diffusion_jax.api.model import Model, load
from crystal_diffusion_jax.api.workflows import discover, match

__all__ = [
    "Asked",
    "Crystal",
    "Crystals",
    "Model",
    "Oracle",
    "Potential",
    "discover",
    "load",
    "match",
    "oracle",
    "potential",
    "relax",
    "success_rate",
]
