"""Several crystals -> one padded batch, so that the network compiles once for many of them."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.struct
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from crystal_diffusion_jax.potentials.neighbours import AtomGraph, Capacity

# Of the cell of the padding crystal. Its bonds are as long, beyond every cutoff, so that they
# contribute nothing and every number stays finite without a mask.
_FAR = 100.0  # Angstrom


@flax.struct.dataclass
class AtomBatch:
    """Several crystals in flat arrays; last crystal and last atom are padding.

    Bonds and angles stay valid while `lattice` and `frac_coords` change a little.

    Attributes:
      lattice: cell vectors as rows, in Angstrom.
      frac_coords: any real numbers.
      atomic_numbers: of the atoms.
      crystal: index of each atom's crystal, ascending.
      first: first atom of each bond, the short bonds before the long ones.
      second: its second atom.
      image: lattice translation of the second atom.
      left: directed short bond of an angle, ascending; see `AtomGraph.angles`.
      right: the other one, from the same atom.
    """

    lattice: Float[Array, "crystals 3 3"]
    frac_coords: Float[Array, "atoms 3"]
    atomic_numbers: Int[Array, " atoms"]
    crystal: Int[Array, " atoms"]
    first: Int[Array, " bonds"]
    second: Int[Array, " bonds"]
    image: Float[Array, "bonds 3"]
    left: Int[Array, " angles"]
    right: Int[Array, " angles"]
    num_short: int = flax.struct.field(pytree_node=False)


def pad(graphs: Sequence[AtomGraph], capacity: Capacity) -> AtomBatch:
    """One batch in NumPy arrays, float32 and int32.

    Args:
      graphs: together they must fit the capacity (`Capacity.fits`).
      capacity: sizes of the batch.
    """
    atoms = [len(graph.atomic_numbers) for graph in graphs]
    # Atoms are wrapped into the cell, as float32 has few digits for those far away.
    cells = [np.floor(graph.frac_coords).astype(np.int64) for graph in graphs]
    short_bonds, long_bonds, angles = [], [], []
    first_atom = first_bond = 0
    for graph, cell in zip(graphs, cells, strict=True):
        ends = graph.bonds[:, :2]
        image = graph.bonds[:, 2:] + cell[ends[:, 1]] - cell[ends[:, 0]]
        bonds = np.concatenate([ends + first_atom, image], axis=1)
        short_bonds.append(bonds[: graph.num_short])
        long_bonds.append(bonds[graph.num_short :])
        # In the batch, the backward bonds follow the forward ones of all crystals.
        backward = graph.angles >= graph.num_short
        shift = np.where(backward, capacity.short_bonds - graph.num_short, 0)
        angles.append(graph.angles + first_bond + shift)
        first_atom += len(cell)
        first_bond += graph.num_short

    floats = functools.partial(_padded, np.float32)
    integers = functools.partial(_padded, np.int32)
    no_bond = [capacity.atoms - 1, capacity.atoms - 1, 1, 0, 0]
    all_bonds: Any = np.concatenate(
        [
            integers(short_bonds, capacity.short_bonds, no_bond),
            integers(long_bonds, capacity.long_bonds, no_bond),
        ]
    )
    # The last directed bond is padding.
    all_angles = integers(angles, capacity.angles, [2 * capacity.short_bonds - 1] * 2)
    all_angles = all_angles[np.argsort(all_angles[:, 0], kind="stable")]
    lattices = [graph.lattice[None] for graph in graphs]
    coords = [graph.frac_coords - cell for graph, cell in zip(graphs, cells, strict=True)]
    crystal = np.repeat(np.arange(len(graphs)), atoms)
    return AtomBatch(
        lattice=floats(lattices, capacity.crystals, _FAR * np.eye(3)),
        frac_coords=floats(coords, capacity.atoms, [0, 0, 0]),
        atomic_numbers=integers([graph.atomic_numbers for graph in graphs], capacity.atoms, 6),
        crystal=integers([crystal], capacity.atoms, capacity.crystals - 1),
        first=all_bonds[:, 0].copy(),
        second=all_bonds[:, 1].copy(),
        image=all_bonds[:, 2:].astype(np.float32),
        left=all_angles[:, 0].copy(),
        right=all_angles[:, 1].copy(),
        num_short=capacity.short_bonds,
    )


def _padded(dtype: type, parts: Sequence[np.ndarray], size: int, padding: Any) -> Any:
    """The parts in a row, followed by copies of `padding` up to `size` rows."""
    padding = np.asarray(padding, dtype)
    full = np.broadcast_to(padding, (size, *np.shape(parts[0])[1:])).copy()
    end = 0
    for part in parts:
        full[end : end + len(part)] = part
        end += len(part)
    return full
