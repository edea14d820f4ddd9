"""Bond graphs -> triplets -> padded batches, all of one shape: the network compiles once."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import flax.struct
import jax.numpy as jnp
import numpy as np
from jax import Array

# Batches for few crystals have this many bonds, or a power of four times as many.
SMALLEST_BATCH = 512


@dataclasses.dataclass(frozen=True)
class CrystalGraph:
    """One crystal and its directed bonds.

    Attributes:
      lattice: [3, 3] cell vectors as rows, in Angstrom.
      frac_coords: [N, 3], as they come: bond images refer to these, not to wrapped ones.
      atomic_numbers: [N].
      bonds: [E, 5] int: source atom, target atom, and the image (three integers) of the source.
    """

    lattice: np.ndarray
    frac_coords: np.ndarray
    atomic_numbers: np.ndarray
    bonds: np.ndarray

    @functools.cached_property
    def triplets(self) -> np.ndarray:
        """[T, 2] int: near bond j -> i and far bond k -> j of each triplet with k != i.

        Sorted by the near bond. Atoms are compared by index: a triplet between two images of one
        atom is left out, as it was in the training of the networks.
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
    """B crystals with N atoms, E bonds and T triplets in all, the last crystal only padding.

    Attributes:
      lattice: [B, 3, 3] in Angstrom.
      num_atoms: [B] atoms of each crystal, at least 1.
      frac_coords: [N, 3], in [0, 1) where `pad` made them.
      atomic_numbers: [N] int32.
      crystal: [N] int32, the crystal of each atom.
      source: [E] int32, the atom that a bond starts from.
      target: [E] int32, the atom that it ends at.
      image: [E, 3] lattice translation of the source atom.
      near_bond: [T] int32, the bond j -> i of a triplet, ascending; E in padding.
      far_bond: [T] int32, the bond k -> j.
    """

    lattice: Array
    num_atoms: Array
    frac_coords: Array
    atomic_numbers: Array
    crystal: Array
    source: Array
    target: Array
    image: Array
    near_bond: Array
    far_bond: Array


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """Padded sizes: B crystals, N atoms, E bonds, T triplets."""

    crystals: int
    atoms: int
    bonds: int
    triplets: int


def pack(
    graphs: Sequence[CrystalGraph], bonds_per_batch: int
) -> Iterator[tuple[list[int], GraphBatch]]:
    """Cuts graphs, in their order, into padded batches of one shape.

    Args:
      graphs: each with one bond at least.
      bonds_per_batch: bonds in a full batch, exceeded only where one crystal has more.

    Yields:
      the indices of the crystals in a batch, and the batch.
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
    """The smallest shape for all groups, rounded up so that calls on like data share it."""

    def sizes(group: Sequence[int]) -> tuple[int, int, int]:
        members = [graphs[index] for index in group]
        # One more crystal and atom for the padding to belong to.
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

    Padding atoms and bonds belong to the last crystal, a cube of carbon bonded to its own images,
    so that every number stays finite without a mask. Padding triplets end nowhere.

    Args:
      graphs: fewer than `shape.crystals`.
      shape: with room for all of them and one more atom.
    """
    atoms = [len(graph.atomic_numbers) for graph in graphs]
    bonds = [len(graph.bonds) for graph in graphs]
    triplets = [len(graph.triplets) for graph in graphs]
    first_atom = np.cumsum([0, *atoms])
    first_bond = np.cumsum([0, *bonds])
    num_atoms, num_bonds, num_triplets = first_atom[-1], first_bond[-1], sum(triplets)
    all_bonds = np.concatenate([graph.bonds for graph in graphs])
    ends_of_bonds = all_bonds[:, :2] + np.repeat(first_atom[:-1], bonds)[:, None]
    # float32 has few digits for atoms many cells away: they are moved into the cell.
    coords = np.concatenate([graph.frac_coords for graph in graphs])
    cell = np.floor(coords)
    images = all_bonds[:, 2:] + cell[ends_of_bonds[:, 0]] - cell[ends_of_bonds[:, 1]]

    lattice = np.tile(3.0 * np.eye(3, dtype=np.float32), (shape.crystals, 1, 1))
    lattice[: len(graphs)] = [graph.lattice for graph in graphs]
    atoms_of = np.ones(shape.crystals, dtype=np.float32)
    atoms_of[: len(graphs)] = atoms
    frac_coords = np.zeros((shape.atoms, 3), dtype=np.float32)
    frac_coords[:num_atoms] = coords - cell
    atomic_numbers = np.full(shape.atoms, 6, dtype=np.int32)
    atomic_numbers[:num_atoms] = np.concatenate([graph.atomic_numbers for graph in graphs])
    crystal = np.full(shape.atoms, shape.crystals - 1, dtype=np.int32)
    crystal[:num_atoms] = np.repeat(np.arange(len(graphs)), atoms)

    ends = np.full((shape.bonds, 2), shape.atoms - 1, dtype=np.int32)
    image = np.tile(np.array([1, 0, 0], dtype=np.float32), (shape.bonds, 1))
    ends[:num_bonds] = ends_of_bonds
    image[:num_bonds] = images

    near_bond = np.full(shape.triplets, shape.bonds, dtype=np.int32)
    far_bond = np.zeros(shape.triplets, dtype=np.int32)
    all_triplets = np.concatenate([graph.triplets for graph in graphs])
    all_triplets = all_triplets + np.repeat(first_bond[:-1], triplets)[:, None]
    near_bond[:num_triplets], far_bond[:num_triplets] = all_triplets.T
    return GraphBatch(
        lattice=jnp.asarray(lattice),
        num_atoms=jnp.asarray(atoms_of),
        frac_coords=jnp.asarray(frac_coords),
        atomic_numbers=jnp.asarray(atomic_numbers),
        crystal=jnp.asarray(crystal),
        source=jnp.asarray(ends[:, 0]),
        target=jnp.asarray(ends[:, 1]),
        image=jnp.asarray(image),
        near_bond=jnp.asarray(near_bond),
        far_bond=jnp.asarray(far_bond),
    )
