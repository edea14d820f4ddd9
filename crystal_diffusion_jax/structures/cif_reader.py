"""One CIF -> the structure that its text states, unrounded and unreduced, or the reason why not.

`data.read` prepares training crystals and so reduces each cell; here a crystal of someone else's
making is judged, and nothing about it may be mended on the way.
"""

import re
import warnings

import numpy as np
from pymatgen.core import Structure
from pymatgen.io.cif import CifBlock, CifParser, str2float
from pymatgen.util.coord import in_coord_list_pbc

from crystal_diffusion_jax.structures.canonical import (
    check_atoms,
    check_cell,
    check_formula,
    check_images,
)
from crystal_diffusion_jax.structures.cif_text import checked_text
from crystal_diffusion_jax.structures.conversion import restore_structure
from crystal_diffusion_jax.structures.limits import (
    MAX_ATOMS,
    MAX_CELL_LENGTH,
    MAX_FRACTIONAL,
    MIN_CELL_LENGTH,
    MIN_VOLUME,
)

# In fractional units. Symmetry images of one listed atom closer than this are one atom: a special
# position written with four digits leaves images 1e-4 apart. Two *listed* atoms as close as this
# stay two, which the structure's validity is about.
_SITE_TOLERANCE = 1e-3


def parse_cif(text: str) -> Structure:
    """The one structure in a CIF, in the cell and with the coordinates it states.

    Raises:
      ValueError: there is no such structure, or it is none that can be judged (disordered, unknown
        element, no volume); the message is "reason: particulars" or "reason".
    """
    if not text.strip():
        raise ValueError("empty file")
    text = checked_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of the defects that are errors here
        try:
            # frac_tolerance=0: otherwise 0.3333 becomes 1/3, and so does what was meant as 0.3333.
            parser = CifParser.from_str(
                text, frac_tolerance=0.0, site_tolerance=_SITE_TOLERANCE, check_cif=False
            )
        except Exception as error:  # broken text makes it raise nearly anything
            raise ValueError("unparsable CIF") from error
        blocks = [b for b in parser.as_dict().values() if "_atom_site_fract_x" in b]
        if len(blocks) != 1:
            raise ValueError(f"unparsable CIF: {len(blocks)} structures in it, one is expected")
        try:
            check_cell(blocks[0])
        except ValueError as error:
            if str(error).startswith("zero volume"):  # said as `checked_structure` says it
                raise ValueError(f"volume below {MIN_VOLUME} A^3") from error
            raise
        check_atoms(blocks[0])
        check_images(blocks[0], parser)
        listed = _all_listed(parser, CifBlock(blocks[0], [], ""))
        try:
            (structure,) = parser.parse_structures(primitive=False, on_error="raise")
            # The parser merges atoms of one element at one site, and makes of O and H there a
            # hydroxyl group without coordinates for H.
            structure = listed if len(structure) < len(listed) else structure
        except Exception as error:
            # Every occupancy is 1, so that the parser finds more only where two atoms coincide.
            if "Occupancy" not in str(error):
                raise ValueError("unparsable CIF") from error
            structure = listed
        check_formula(blocks[0], structure)
    numbers = np.array([site.specie.Z for site in structure])
    return checked_structure(structure.lattice.matrix, structure.frac_coords, numbers)


def _all_listed(parser: CifParser, block: CifBlock) -> Structure:
    """The structure in which every listed atom has its own symmetry images, wherever these lie."""
    listed = zip(
        block.data.get("_atom_site_type_symbol", block["_atom_site_label"]),
        *(map(str2float, block[f"_atom_site_fract_{axis}"]) for axis in "xyz"),
        strict=True,
    )
    operations = parser.get_symops(block)
    symbols: list[str] = []
    coords: list[np.ndarray] = []
    for symbol, *position in listed:
        images: list[np.ndarray] = []
        for operation in operations:
            image = operation.operate(position)
            if not in_coord_list_pbc(images, image, atol=_SITE_TOLERANCE):
                images.append(image)
        symbols += [re.sub("[^A-Za-z].*", "", symbol)] * len(images)  # O2- and O17 are O
        coords += images
    return Structure(CifParser.get_lattice_no_exception(block), symbols, coords)


def checked_structure(
    lattice: np.ndarray, frac_coords: np.ndarray, atomic_numbers: np.ndarray
) -> Structure:
    """The structure of given numbers, if these describe a crystal at all.

    Args:
      lattice: [3, 3] cell vectors as rows, in Angstrom.
      frac_coords: [N, 3] fractional coordinates.
      atomic_numbers: [N] int.

    Raises:
      ValueError: they do not; the message is the reason.
    """
    if np.ndim(atomic_numbers) != 1 or np.shape(lattice) != (3, 3):
        raise ValueError("cell, coordinates and elements do not fit together")
    if len(atomic_numbers) == 0:
        raise ValueError("no atoms")
    if len(atomic_numbers) > MAX_ATOMS:
        raise ValueError(f"too many atoms: {len(atomic_numbers)}, the limit is {MAX_ATOMS}")
    if np.shape(frac_coords) != (len(atomic_numbers), 3):
        raise ValueError("cell, coordinates and elements do not fit together")
    if not (np.isfinite(lattice).all() and np.isfinite(frac_coords).all()):
        raise ValueError("non-finite numbers")
    if np.abs(lattice).max() > MAX_CELL_LENGTH:
        raise ValueError(f"cell vector longer than {MAX_CELL_LENGTH:g} A")
    if np.abs(frac_coords).max() > MAX_FRACTIONAL:
        raise ValueError(f"coordinate beyond {MAX_FRACTIONAL:g}")
    # CDVAE's evaluation does not construct such a crystal either.
    if abs(np.linalg.det(lattice)) < MIN_VOLUME:
        raise ValueError(f"volume below {MIN_VOLUME} A^3")
    if np.linalg.norm(lattice, axis=-1).min() < MIN_CELL_LENGTH:
        raise ValueError(f"cell vector shorter than {MIN_CELL_LENGTH} A")
    if min(atomic_numbers) < 1 or max(atomic_numbers) > 118:
        raise ValueError("unknown element")
    return restore_structure(np.asarray(lattice), np.asarray(frac_coords), atomic_numbers)
