"""Structures -> predicted property, as in the papers' evaluations."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64

from crystal_diffusion_jax.oracles import bonds, domain, graph, weights
from crystal_diffusion_jax.oracles.batching import pack
from crystal_diffusion_jax.oracles.dimenet import forward
from crystal_diffusion_jax.oracles.domain import Domain
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
        formation energy in eV per atom (mp20); NaN where there is none, or none to be believed.
      failures: why there is none, by index.
    """

    values: Float64[np.ndarray, " structures"]
    failures: dict[int, str]


def predict(structures: Sequence[Structure], oracle: str, progress: bool = True) -> Predictions:
    """Predicts the property of each structure with one of CDVAE's networks.

    Structures are taken as they are, without Niggli reduction, as CDVAE's evaluation does. One that
    is outside the network's training data has a failure that begins with `domain.OUTSIDE`.

    Args:
      structures: S of them.
      oracle: "perov5", "carbon24" or "mp20".
      progress: show progress bars on stderr.

    Raises:
      UserError: unknown oracle, or its weights cannot be downloaded.
    """
    weights.require_known(oracle)
    trained_on = domain.load(oracle)
    outside = {
        i: reason for i, s in enumerate(structures) if (reason := _cell_defect(s, trained_on))
    }
    inside = [i for i in range(len(structures)) if i not in outside]
    answered = answers([structures[i] for i in inside], oracle, progress)
    values = np.full(len(structures), np.nan)
    failures = outside | {inside[i]: reason for i, reason in answered.failures.items()}
    for index, value in zip(inside, answered.values.tolist(), strict=True):
        if index in failures:
            continue
        if reason := trained_on.value_defect(value):
            failures[index] = reason
        else:
            values[index] = value
    return Predictions(values, dict(sorted(failures.items())))


def _cell_defect(structure: Structure, trained_on: Domain) -> str | None:
    """`Domain.cell_defect`; None also for what is no crystal at all, which `bonds.build` names."""
    try:
        return trained_on.cell_defect(*graph.arrays(structure))
    except graph.NoGraph:
        return None


def answers(structures: Sequence[Structure], oracle: str, progress: bool = True) -> Predictions:
    """What a network says of any crystals, also of those that it was never trained on.

    Weights and bonds are cached; see `weights.load` and `bonds.build`. Arguments as in `predict`.

    Raises:
      UserError: unknown oracle, or its weights cannot be downloaded.
    """
    network = weights.load(oracle, progress)
    parameters = {name: jnp.asarray(value) for name, value in network.parameters.items()}
    graphs = bonds.build(structures, progress)
    failures = dict(graphs.failures)
    failures |= {i: reason for i, g in graphs.found.items() if (reason := domain.bond_defect(g))}
    values = np.full(len(structures), np.nan)
    indices = [index for index in graphs.found if index not in failures]
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
