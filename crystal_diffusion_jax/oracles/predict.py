"""Structures -> predicted property, as in the papers' evaluations."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float64

from crystal_diffusion_jax.oracles import bonds, domain, graph, weights
from crystal_diffusion_jax.oracles.batching import GraphBatch, pack
from crystal_diffusion_jax.oracles.dimenet import forward, merge_layers
from crystal_diffusion_jax.oracles.domain import Domain
from crystal_diffusion_jax.oracles.graph import Structure
from crystal_diffusion_jax.runtime import devices, parallel

# Bonds in a full batch of one device. On a CPU core its messages (0.5 MB) stay in the second-level
# cache; accelerators need more rows.
_BONDS_ON_CPU = 1024
_BONDS_ON_ACCELERATOR = 32768


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
    graphs = bonds.build(structures, progress)
    failures = dict(graphs.failures)
    failures |= {i: reason for i, g in graphs.found.items() if (reason := domain.bond_defect(g))}
    values = np.full(len(structures), np.nan)
    indices = [index for index in graphs.found if index not in failures]
    size = _BONDS_ON_CPU if jax.default_backend() == "cpu" else _BONDS_ON_ACCELERATOR
    batches = pack([graphs.found[index] for index in indices], size)
    for members, outputs in _outputs(merge_layers(network.parameters), batches):
        for member, output in zip(members, outputs, strict=True):
            if np.isfinite(output):
                values[indices[member]] = output * network.std + network.mean
            else:
                failures[indices[member]] = "the network predicts a non-finite number"
    return Predictions(values, dict(sorted(failures.items())))


def _outputs(
    parameters: Mapping[str, np.ndarray], batches: Iterator[tuple[list[int], GraphBatch]]
) -> Iterator[tuple[list[int], Float64[np.ndarray, " crystals"]]]:
    """Members of each batch and the network's raw outputs for them; each device takes a batch."""
    mesh = Mesh(np.array(jax.local_devices()), (devices.AXIS,))
    program = _program(mesh)
    on_devices = jax.device_put(parameters, devices.replicated(mesh))
    # Results are fetched at the end, so that batches are padded while earlier ones are computed.
    results = []
    while group := list(itertools.islice(batches, mesh.size)):
        # Devices without a batch repeat the last one.
        rows = [batch for _, batch in group] + [group[-1][1]] * (mesh.size - len(group))
        stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *rows)
        placed = jax.device_put(stacked, devices.by_batch(mesh))
        results.append(([members for members, _ in group], program(on_devices, placed)))
    for groups, outputs in results:
        for members, row in zip(groups, np.asarray(outputs, dtype=np.float64), strict=False):
            yield members, row[: len(members)]


@functools.cache
def _program(mesh: Mesh) -> Callable[[Mapping[str, Array], GraphBatch], Array]:
    """(parameters, a batch for each device) -> outputs of each batch."""

    def one_batch(parameters: Mapping[str, Array], row: GraphBatch) -> Array:
        return forward(parameters, jax.tree.map(lambda array: array[0], row))[None]

    return jax.jit(
        parallel.map_rows(one_batch, 1, mesh), compiler_options=devices.compiler_options()
    )
