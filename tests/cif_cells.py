"""The one crystal of a CIF, and its canonical cell, as training reads it."""

from pymatgen.core import Structure

from crystal_diffusion_jax.structures.canonical import Cell, canonical_cell
from crystal_diffusion_jax.structures.cif_reader import parse_cif_blocks


def parse_cif(text: str) -> Structure:
    """The one structure in a CIF; raises ValueError with the reason why there is none."""
    (block,) = parse_cif_blocks(text)
    if isinstance(block.structure, str):
        raise ValueError(block.structure)
    return block.structure


def cell_of(cif: str, max_num_atoms: int = 0) -> Cell:
    """`canonical_cell` of the one crystal in a CIF."""
    return canonical_cell(parse_cif(cif), max_num_atoms)
