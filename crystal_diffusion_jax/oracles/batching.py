"""Bond graphs -> triplets -> padded batches of one shape, so that the network compiles once."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

# The number of bonds in a batch is this times a power of four.
SMALLEST_BATCH = 512


@dataclasses.dataclass(frozen=True)
class CrystalGraph:
    """One crystal and its directed bonds.

    Attributes:
      lattice: cell vectors as rows, in Angstrom.
      frac_coords: not wrapped; the images of the bonds refer to these.
      atomic_numbers: of the atoms.
      bonds: source atom, target atom, and the image (three integers) of the source.
    """

    lattice: Float[np.ndarray, "3 3"]
    frac_coords: Float[np.ndarray, "atoms 3"]
    atomic_numbers: Int[np.ndarray, " atoms"]
    bonds: Int[np.ndarray, "bonds 5"]

    @functools.cached_property
    def triplets(self) -> Int[np.ndarray, "triplets 2"]:
        """Near bond j -> i and far bond k -> j of each triplet with k != i, by the near bond.

        Atoms are compared by index: a triplet between two images of one atom is left out, as in
        the training of the networks.
        """
        source, target = self.bonds[:, 0], self.bonds[:, 1]
        by_target = np.argsort(target, kind="stable")
        first = np.searchsorted(target[by_target], source)
        count = np.searchsorted(target[by_target], source, side="right") - first
        near = np.repeat(np.arange(len(self.bonds)), count)
        rank = np.arange(len(near)) - np.repeat(np.cumsum(count) - count, count)
        far = by_target[first[near] + rank]
        kept = source[far] != target[near]
        return np.stack([near[kept], far[kept]], axis=1)


@flax.struct.dataclass
class GraphBatch:
    """Several crystals in flat arrays; the last crystal is padding.

    Attributes:
      lattice: in Angstrom.
      num_atoms: of each crystal, at least 1.
      frac_coords: in [0, 1) if made by `pad`.
      atomic_numbers: of the atoms.
      crystal: index of each atom's crystal.
      source: the atom that a bond starts from.
      target: the atom that it ends at.
      image: lattice translation of the source atom.
      near_bond: the bond j -> i of a triplet, ascending; the number of bonds in padding.
      far_bond: the bond k -> j.
    """

    lattice: Float[Array, "crystals 3 3"]
    num_atoms: Float[Array, " crystals"]
    frac_coords: Float[Array, "atoms 3"]
    atomic_numbers: Int[Array, " atoms"]
    crystal: Int[Array, " atoms"]
    source: Int[Array, " bonds"]
    target: Int[Array, " bonds"]
    image: Float[Array, "bonds 3"]
    near_bond: Int[Array, " triplets"]
    far_bond: Int[Array, " triplets"]


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """Sizes of a padded batch."""

    crystals: int
    atoms: int
    bonds: int
    triplets: int


def pack(
    graphs: Sequence[CrystalGraph], bonds_per_batch: int
) -> Iterator[tuple[list[int], GraphBatch]]:
    """Packs graphs, in order, into padded batches of one shape.

    Args:
      graphs: each with at least one bond.
      bonds_per_batch: bonds in a full batch, exceeded only if one crystal has more.

    Yields:
      Indices of the crystals in a batch, and the batch.
    """
    if not graphs:
        return
    num_bonds = [len(graph.bonds) for graph in graphs]
    capacity = SMALLEST_BATCH
    while capacity < max(*num_bonds, min(sum(num_bonds), bonds_per_batch)):
        capacity *= 4
    groups = _split(graphs, capacity)
    shape = _common_shape(graphs, groups, capacity)
    for group in groups:
        yield group, pad([graphs[index] for index in group], shape)


def _split(graphs: Sequence[CrystalGraph], capacity: int) -> list[list[int]]:
    """Runs of consecutive graphs with at most `capacity` bonds together."""
    groups: list[list[int]] = []
    room = 0
    for index, graph in enumerate(graphs):
        if len(graph.bonds) > room:
            groups.append([])
            room = capacity
        groups[-1].append(index)
        room -= len(graph.bonds)
    return groups


def _common_shape(
    graphs: Sequence[CrystalGraph], groups: Sequence[Sequence[int]], capacity: int
) -> BatchShape:
    """The smallest shape for all groups, rounded up so that calls on similar data share it."""

    def sizes(group: Sequence[int]) -> tuple[int, int, int]:
        members = [graphs[index] for index in group]
        # One more crystal and atom, for the padding.
        return (
            len(members) + 1,
            sum(len(graph.atomic_numbers) for graph in members) + 1,
            sum(len(graph.triplets) for graph in members),
        )

    crystals, atoms, triplets = np.max([sizes(group) for group in groups], axis=0).tolist()
    return BatchShape(
        crystals=_round_up(crystals, capacity // 32),
        atoms=_round_up(atoms, capacity // 64),
        bonds=capacity,
        triplets=_round_up(triplets, capacity // 2),
    )


def _round_up(size: int, step: int) -> int:
    return -(-max(size, 1) // step) * step


def pad(graphs: Sequence[CrystalGraph], shape: BatchShape) -> GraphBatch:
    """One padded batch, float32 and int32.

    Padding atoms and bonds belong to the last crystal, simple cubic carbon, so that every number
    stays finite without a mask. Padding triplets contribute to no bond.

    Args:
      graphs: fewer than `shape.crystals`.
      shape: must hold all of them and one more atom.
    """
    atoms = [len(graph.atomic_numbers) for graph in graphs]
    bonds = [len(graph.bonds) for graph in graphs]
    triplets = [len(graph.triplets) for graph in graphs]
    first_atom = np.cumsum([0, *atoms[:-1]])
    first_bond = np.cumsum([0, *bonds[:-1]])
    all_bonds = np.concatenate([graph.bonds for graph in graphs])
    ends = all_bonds[:, :2] + np.repeat(first_atom, bonds)[:, None]
    # Atoms are wrapped into the cell, as float32 has few digits for those far away.
    coords = np.concatenate([graph.frac_coords for graph in graphs])
    cell = np.floor(coords)
    all_triplets = np.concatenate([graph.triplets for graph in graphs])
    near_bond, far_bond = (all_triplets + np.repeat(first_bond, triplets)[:, None]).T

    floats = functools.partial(_padded, np.float32)
    integers = functools.partial(_padded, np.int32)
    last_crystal, last_atom = shape.crystals - 1, shape.atoms - 1
    return GraphBatch(
        lattice=floats([graph.lattice for graph in graphs], shape.crystals, 3.0 * np.eye(3)),
        num_atoms=floats(atoms, shape.crystals, 1),
        frac_coords=floats(coords - cell, shape.atoms, 0),
        atomic_numbers=integers(
            np.concatenate([graph.atomic_numbers for graph in graphs]), shape.atoms, 6
        ),
        crystal=integers(np.repeat(np.arange(len(graphs)), atoms), shape.atoms, last_crystal),
        source=integers(ends[:, 0], shape.bonds, last_atom),
        target=integers(ends[:, 1], shape.bonds, last_atom),
        image=floats(
            all_bonds[:, 2:] + cell[ends[:, 0]] - cell[ends[:, 1]], shape.bonds, [1, 0, 0]
        ),
        near_bond=integers(near_bond, shape.triplets, shape.bonds),
        far_bond=integers(far_bond, shape.triplets, 0),
    )


def _padded(dtype: type, values: Any, size: int, padding: Any) -> Array:
    """The values, followed by copies of `padding` up to `size` rows."""
    values = np.asarray(values, dtype)
    full = np.empty((size, *values.shape[1:]), dtype)
    full[: len(values)] = values
    full[len(values) :] = padding
    return jnp.asarray(full)
