"""Bond graphs -> triplets -> padded batches of one shape, so that the network compiles once."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import flax.struct
import numpy as np
from jax import Array
from jaxtyping import Float, Int

# The number of bonds in a batch is this times a power of two.
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


def triplets(bonds: Int[np.ndarray, "bonds _"]) -> Int[np.ndarray, "triplets 2"]:
    """Near bond j -> i and far bond k -> j of each triplet with k != i, by the near bond.

    Atoms are compared by index: a triplet between two images of one atom is left out, as in the
    training of the networks.

    Args:
      bonds: source and target atom in the first two columns; those of several crystals may stand
        in a row if no index occurs in two crystals.
    """
    source, target = bonds[:, 0], bonds[:, 1]
    by_target = np.argsort(target, kind="stable")
    first = np.searchsorted(target[by_target], source)
    count = np.searchsorted(target[by_target], source, side="right") - first
    near = np.repeat(np.arange(len(bonds)), count)
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
        capacity *= 2
    groups = _split(num_bonds, capacity)
    shape = _common_shape(graphs, groups, capacity)
    for group in groups:
        yield group, pad([graphs[index] for index in group], shape)


def _split(num_bonds: Sequence[int], capacity: int) -> list[list[int]]:
    """Runs of consecutive graphs with at most `capacity` bonds together."""
    groups: list[list[int]] = []
    room = 0
    for index, bonds in enumerate(num_bonds):
        if bonds > room:
            groups.append([])
            room = capacity
        groups[-1].append(index)
        room -= bonds
    return groups


def _common_shape(
    graphs: Sequence[CrystalGraph], groups: Sequence[Sequence[int]], capacity: int
) -> BatchShape:
    """The smallest shape for all groups, rounded up so that calls on similar data share it."""
    starts = [group[0] for group in groups]
    atoms = np.add.reduceat([len(graph.atomic_numbers) for graph in graphs], starts)
    num_triplets = np.add.reduceat(_num_triplets(graphs), starts)
    # One more crystal and atom, for the padding.
    return BatchShape(
        crystals=_round_up(max(map(len, groups)) + 1, capacity // 32),
        atoms=_round_up(int(atoms.max()) + 1, capacity // 128),
        bonds=capacity,
        triplets=_round_up(int(num_triplets.max()), capacity // 8),
    )


def _num_triplets(graphs: Sequence[CrystalGraph]) -> Int[np.ndarray, " graphs"]:
    """Number of triplets of each graph, without listing them."""
    source, target = _joined_bonds(graphs)[:, :2].T
    num_atoms = int(max(source.max(), target.max())) + 1
    # All bonds that end where this one starts, but for those that start where this one ends.
    arriving = np.bincount(target, minlength=num_atoms)[source]
    pairs, times = np.unique(source * num_atoms + target, return_counts=True)
    opposite = target * num_atoms + source
    place = np.minimum(np.searchsorted(pairs, opposite), len(pairs) - 1)
    returning = np.where(pairs[place] == opposite, times[place], 0)
    first_bond = np.cumsum([0, *(len(graph.bonds) for graph in graphs)])[:-1]
    return np.add.reduceat(arriving - returning, first_bond)


def _joined_bonds(graphs: Sequence[CrystalGraph]) -> Int[np.ndarray, "bonds 5"]:
    """The bonds of all graphs in a row, their atoms counted through."""
    first_atom = np.cumsum([0, *(len(graph.atomic_numbers) for graph in graphs)])[:-1]
    bonds = np.concatenate([graph.bonds for graph in graphs]).astype(np.int64)
    bonds[:, :2] += np.repeat(first_atom, [len(graph.bonds) for graph in graphs])[:, None]
    return bonds


def _round_up(size: int, step: int) -> int:
    return -(-max(size, 1) // step) * step


def pad(graphs: Sequence[CrystalGraph], shape: BatchShape) -> GraphBatch:
    """One padded batch of NumPy arrays, float32 and int32.

    Padding atoms and bonds belong to the last crystal, simple cubic carbon, so that every number
    stays finite without a mask. Padding triplets contribute to no bond.

    Args:
      graphs: fewer than `shape.crystals`.
      shape: must hold all of them and one more atom.
    """
    atoms = [len(graph.atomic_numbers) for graph in graphs]
    bonds = _joined_bonds(graphs)
    source, target = bonds[:, 0], bonds[:, 1]
    near_bond, far_bond = triplets(bonds).T
    # Atoms are wrapped into the cell, as float32 has few digits for those far away.
    coords = np.concatenate([graph.frac_coords for graph in graphs])
    cell = np.floor(coords)

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
        source=integers(source, shape.bonds, last_atom),
        target=integers(target, shape.bonds, last_atom),
        image=floats(bonds[:, 2:] + cell[source] - cell[target], shape.bonds, [1, 0, 0]),
        near_bond=integers(near_bond, shape.triplets, shape.bonds),
        far_bond=integers(far_bond, shape.triplets, 0),
    )


def _padded(dtype: type, values: Any, size: int, padding: Any) -> Any:
    """The values, followed by copies of `padding` up to `size` rows."""
    values = np.asarray(values, dtype)
    full = np.empty((size, *values.shape[1:]), dtype)
    full[: len(values)] = values
    full[len(values) :] = padding
    return full
