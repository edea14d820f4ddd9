"""CIF text -> the structure that it states, unrounded and unreduced, or the reason why not.

The one reader of CIFs: what is trained on, generated, evaluated and predicted comes through here.
Nothing is repaired: a CIF that leaves doubt on an atom, the cell or the symmetry is refused.
"""

from typing import NamedTuple

import numpy as np
from pymatgen.core import Element, Lattice, Structure

from crystal_diffusion_jax.structures import cif_symmetry
from crystal_diffusion_jax.structures.cif_atoms import ListedAtoms, atoms_of, lattice_of
from crystal_diffusion_jax.structures.cif_blocks import DataBlock, read_blocks
from crystal_diffusion_jax.structures.cif_content import check_content
from crystal_diffusion_jax.structures.cif_orbits import images_of
from crystal_diffusion_jax.structures.conversion import checked_structure
from crystal_diffusion_jax.structures.space_groups import Group


class ReadBlock(NamedTuple):
    """A data block with atoms: its name, and the structure or the reason why there is none."""

    name: str
    structure: Structure | str


def parse_cif_blocks(text: str) -> list[ReadBlock]:
    """All structures in a CIF, one for each data block with atoms, as the block states them.

    Symmetry images are added, within the unit cell. Magnetic moments are left out.

    Raises:
      ValueError: it is no CIF, or no block has atoms; the message is the reason.
    """
    blocks = _blocks_with_atoms(text)
    if not blocks:
        raise ValueError("unparsable CIF: 0 structures in it")
    read = []
    for block in blocks:
        try:
            read.append(ReadBlock(block.name, _structure(block)))
        except ValueError as error:
            read.append(ReadBlock(block.name, str(error)))
    return read


def _blocks_with_atoms(text: str) -> list[DataBlock]:
    blocks = read_blocks(text)
    with_atoms = [block for block in blocks if block.column("_atom_site_fract_x")]
    if not with_atoms and any(block.column("_atom_site_cartn_x") for block in blocks):
        raise ValueError("the atoms have only Cartesian coordinates: fractional ones are needed")
    if any(map(cif_symmetry.is_stated, blocks)) and not all(
        map(cif_symmetry.is_stated, with_atoms)
    ):
        raise ValueError("the symmetry is stated in another data block than the atoms")
    return with_atoms


def _structure(block: DataBlock) -> Structure:
    lattice = lattice_of(block)
    atoms = atoms_of(block)
    groups = cif_symmetry.groups_of(block, lattice.matrix)
    if len(groups) > 1:
        groups = [group for group in groups if _may_have(block, lattice, atoms, group)] or groups
    if len(groups) > 1:
        raise ValueError(
            f"{cif_symmetry.stated_names(block)} leaves {len(groups)} choices of axes or origin: "
            "list the symmetry operations in the CIF"
        )
    orbits = images_of(atoms, groups[0], lattice)
    check_content(block, lattice, atoms.elements, list(map(len, orbits)), len(groups[0]))
    numbers = [
        Element(element).Z
        for element, images in zip(atoms.elements, orbits, strict=True)
        for _ in images
    ]
    return checked_structure(lattice.matrix, np.concatenate(orbits), np.array(numbers))


def _may_have(block: DataBlock, lattice: Lattice, atoms: ListedAtoms, group: Group) -> bool:
    """Whether the atoms of one of several groups are what the block states of the whole cell."""
    try:
        multiplicities = [len(images) for images in images_of(atoms, group, lattice)]
    except ValueError:  # the group's fault or the digits'
        return True
    try:
        check_content(block, lattice, atoms.elements, multiplicities, len(group))
    except ValueError:
        return False
    return True
