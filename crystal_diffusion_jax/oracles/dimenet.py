"""The forward pass of CDVAE's property networks: DimeNet++ on a given bond graph.

Parameters are a flat mapping named as in the published checkpoints, so that each line can be
compared with the original: `cdvae/pl_modules/gnn.py` in github.com/txie-93/cdvae at f857f59. Linear
weights have the shape (out, in).
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from crystal_diffusion_jax.oracles.basis import (
    NUM_RADIAL,
    NUM_SPHERICAL,
    radial_basis,
    spherical_harmonics,
    spherical_radial_part,
)
from crystal_diffusion_jax.oracles.batching import GraphBatch

Parameters = Mapping[str, Array]

NUM_BLOCKS = 4


class Basis(NamedTuple):
    """The geometry as the network's input.

    Attributes:
      rbf: radial basis of each bond.
      radial: radial part of the spherical basis.
      harmonics: angular part of the spherical basis.
    """

    rbf: Float[Array, "bonds 6"]
    radial: Float[Array, "bonds 7 6"]
    harmonics: Float[Array, "triplets 7"]


def forward(parameters: Parameters, batch: GraphBatch) -> Float[Array, " crystals"]:
    """Raw output of the network: the property in standard deviations from the training mean.

    Differentiable in `batch.lattice` and `batch.frac_coords`; computed in the inputs' precision.

    Args:
      parameters: as in the checkpoint, without the prefix "encoder.", or from `merge_layers`.
      batch: the crystals.
    """
    # By default accelerators round the factors of matrix products to 10 or 8 bits.
    with jax.default_matmul_precision("highest"):
        basis = basis_functions(parameters, batch)
        per_atom = sum(
            atom_contributions(parameters, t, m, basis, batch)
            for t, m in enumerate(messages(parameters, basis, batch))
        )
    totals = jax.ops.segment_sum(per_atom, batch.crystal, batch.num_atoms.shape[0])
    return totals / batch.num_atoms


def merge_layers(parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Parameters of the same function with one layer less in each output block.

    There is no activation between `lin_up` and `lins.0`, so that both are one product.

    Args:
      parameters: as in the checkpoint.
    """
    merged = dict(parameters)
    for t in range(NUM_BLOCKS + 1):
        first, second = f"output_blocks.{t}.lin_up", f"output_blocks.{t}.lins.0"
        weight = np.asarray(parameters[f"{second}.weight"], np.float64)
        dtype = parameters[f"{second}.weight"].dtype
        bias = weight @ merged.pop(f"{first}.bias") + parameters[f"{second}.bias"]
        merged[f"{second}.bias"] = bias.astype(dtype)
        merged[f"{second}.weight"] = (weight @ merged.pop(f"{first}.weight")).astype(dtype)
    return merged


def basis_functions(parameters: Parameters, batch: GraphBatch) -> Basis:
    """Distances and angles of the batch, expanded."""
    vectors = bond_vectors(batch)
    distance = jnp.linalg.norm(vectors, axis=-1)
    return Basis(
        rbf=radial_basis(distance, parameters["rbf.freq"]),
        radial=spherical_radial_part(distance),
        harmonics=spherical_harmonics(angle_cosines(vectors, distance, batch)),
    )


def messages(
    parameters: Parameters, basis: Basis, batch: GraphBatch
) -> list[Float[Array, "bonds width"]]:
    """Messages along the bonds after the embedding and after each of four interaction blocks."""
    all_messages = [_embed(parameters, basis, batch)]
    for t in range(NUM_BLOCKS):
        all_messages.append(_interact(parameters, t, all_messages[-1], basis, batch))
    return all_messages


def atom_contributions(
    parameters: Parameters, t: int, m: Float[Array, "bonds width"], basis: Basis, batch: GraphBatch
) -> Float[Array, " atoms"]:
    """Output block `t`, applied to the messages `m`."""
    name = f"output_blocks.{t}"
    weighted = _linear(parameters, f"{name}.lin_rbf", basis.rbf) * m
    atoms = jax.ops.segment_sum(weighted, batch.target, batch.atomic_numbers.shape[0])
    # No activation here and no bias at the end, as the networks were trained.
    merged = f"{name}.lin_up.weight" not in parameters
    h = atoms if merged else _linear(parameters, f"{name}.lin_up", atoms)
    for layer in range(3):
        h = _silu(_linear(parameters, f"{name}.lins.{layer}", h))
    return _linear(parameters, f"{name}.lin", h)[:, 0]


def bond_vectors(batch: GraphBatch) -> Float[Array, "bonds 3"]:
    """From the target atom of each bond to its source atom, in Angstrom."""
    # The difference of the fractional coordinates comes first, so that images cost no digits.
    difference = batch.frac_coords[batch.source] - batch.frac_coords[batch.target] + batch.image
    lattice = batch.lattice[batch.crystal[batch.target]]  # [E, 3, 3]
    return jnp.einsum("ex,exy->ey", difference, lattice, precision="highest")


def angle_cosines(
    vectors: Float[Array, "bonds 3"], distance: Float[Array, " bonds"], batch: GraphBatch
) -> Float[Array, " triplets"]:
    """Cosine of the angle between i -> j and j -> k: 1 for a straight chain i - j - k."""
    unit = vectors / distance[:, None]
    # The near bond of a padding triplet is one past the end.
    near = unit.at[batch.near_bond].get(mode="clip")
    return jnp.sum(near * unit[batch.far_bond], axis=-1)


def _embed(parameters: Parameters, basis: Basis, batch: GraphBatch) -> Float[Array, "bonds width"]:
    radial = _silu(_linear(parameters, "emb.lin_rbf", basis.rbf))
    width = radial.shape[-1]
    # The matrix has three blocks: for the target atom, the source atom and the radial part.
    weight = parameters["emb.lin.weight"]
    table = parameters["emb.emb.weight"]
    of_target = (table @ weight[:, :width].T)[batch.atomic_numbers]
    of_source = (table @ weight[:, width : 2 * width].T)[batch.atomic_numbers]
    return _silu(
        of_target[batch.target]
        + of_source[batch.source]
        + radial @ weight[:, 2 * width :].T
        + parameters["emb.lin.bias"]
    )


def _interact(
    parameters: Parameters, t: int, m: Float[Array, "bonds width"], basis: Basis, batch: GraphBatch
) -> Float[Array, "bonds width"]:
    name = f"interaction_blocks.{t}"
    direct = _silu(_linear(parameters, f"{name}.lin_ji", m))
    gate = _linear(parameters, f"{name}.lin_rbf1", basis.rbf)
    gate = _linear(parameters, f"{name}.lin_rbf2", gate)
    q = _silu(_linear(parameters, f"{name}.lin_kj", m)) * gate
    q = _silu(_linear(parameters, f"{name}.lin_down", q))  # [E, 64]

    # lin_sbf1 acts on radial[far_bond] * harmonics, an array of [T, 7, 6]. Its sum over the zeros
    # depends on the far bond alone, so it is computed once per bond instead of per triplet, as one
    # product with a block-diagonal matrix [7 * 6, 7 * 8].
    weight = parameters[f"{name}.lin_sbf1.weight"].reshape(-1, NUM_SPHERICAL, NUM_RADIAL)
    blocks = jnp.einsum("dln,lk->lnkd", weight, jnp.eye(NUM_SPHERICAL, dtype=weight.dtype))
    by_order = basis.radial.reshape(m.shape[0], -1) @ blocks.reshape(weight[0].size, -1)
    by_order = by_order.reshape(m.shape[0], NUM_SPHERICAL, -1)[batch.far_bond]  # [T, 7, 8]
    spherical = jnp.sum(basis.harmonics[..., None] * by_order, axis=1)
    triplets = q[batch.far_bond] * _linear(parameters, f"{name}.lin_sbf2", spherical)  # [T, 64]
    a = jax.ops.segment_sum(triplets, batch.near_bond, m.shape[0], indices_are_sorted=True)
    a = _silu(_linear(parameters, f"{name}.lin_up", a))

    h = _residual(parameters, f"{name}.layers_before_skip.0", direct + a)
    h = _silu(_linear(parameters, f"{name}.lin", h)) + m
    for layer in range(2):
        h = _residual(parameters, f"{name}.layers_after_skip.{layer}", h)
    return h


def _residual(
    parameters: Parameters, name: str, h: Float[Array, "bonds width"]
) -> Float[Array, "bonds width"]:
    inner = _silu(_linear(parameters, f"{name}.lin1", h))
    return h + _silu(_linear(parameters, f"{name}.lin2", inner))


def _silu(x: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    """x sigmoid(x): on CPUs, XLA has a faster hyperbolic tangent than exponential and division."""
    half = 0.5 * x
    return half * jnp.tanh(half) + half


def _linear(
    parameters: Parameters, name: str, x: Float[Array, "rows inputs"]
) -> Float[Array, "rows outputs"]:
    y = x @ parameters[f"{name}.weight"].T
    bias = parameters.get(f"{name}.bias")
    return y if bias is None else y + bias
