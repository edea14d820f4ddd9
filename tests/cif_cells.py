"""The canonical crystal of a CIF, as training reads it."""

from crystal_diffusion_jax.structures.canonical import Cell, canonical_cell
from crystal_diffusion_jax.structures.cif_reader import parse_cif


def cell_of(cif: str, max_num_atoms: int = 0) -> Cell:
    """`canonical_cell` of the one crystal in a CIF."""
    return canonical_cell(parse_cif(cif), max_num_atoms)
