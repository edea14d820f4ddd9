"""Structures -> predicted property, as in the papers' evaluations."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64

from crystal_diffusion_jax.oracles import bonds, weights
from crystal_diffusion_jax.oracles.batching import pack
from crystal_diffusion_jax.oracles.dimenet import forward
from crystal_diffusion_jax.oracles.graph import Structure

ORACLES = tuple(weights.NETWORKS)

# Bonds in a full batch. On a CPU its messages (1 MB) stay in the second-level cache, twice as fast
# as with 8192; accelerators need more rows.
_BONDS_ON_CPU = 2048
_BONDS_ON_ACCELERATOR = 32768

_forward = jax.jit(forward)


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predicted property of S structures.

    Attributes:
      values: heat of formation in eV per cell (perov5), energy in eV per atom (carbon24) or
        formation energy in eV per atom (mp20); NaN where there is none.
      failures: why there is none, by index.
    """

    values: Float64[np.ndarray, " structures"]
    failures: dict[int, str]


def predict(structures: Sequence[Structure], oracle: str, progress: bool = True) -> Predictions:
    """Predicts the property of each structure with one of CDVAE's networks.

    Structures are taken as they are, without Niggli reduction, as CDVAE's evaluation does. Weights
    and bonds are cached; see `weights.load` and `bonds.build`.

    Args:
      structures: S of them.
      oracle: "perov5", "carbon24" or "mp20".
      progress: show progress bars on stderr.

    Raises:
      UserError: unknown oracle, or its weights cannot be downloaded.
    """
    network = weights.load(oracle, progress)
    parameters = {name: jnp.asarray(value) for name, value in network.parameters.items()}
    graphs = bonds.build(structures, progress)
    failures = dict(graphs.failures)
    values = np.full(len(structures), np.nan)
    indices = list(graphs.found)
    size = _BONDS_ON_CPU if jax.default_backend() == "cpu" else _BONDS_ON_ACCELERATOR
    # Results are fetched at the end, so that batches are padded while earlier ones are computed.
    batches = pack([graphs.found[index] for index in indices], size)
    results = [(members, _forward(parameters, batch)) for members, batch in batches]
    for members, result in results:
        outputs = np.asarray(result, dtype=np.float64)[: len(members)]
        for member, output in zip(members, outputs, strict=True):
            if np.isfinite(output):
                values[indices[member]] = output * network.std + network.mean
            else:
                failures[indices[member]] = "the network predicts a non-finite number"
    return Predictions(values, dict(sorted(failures.items())))
