"""CIF text -> canonical crystal: Niggli cell, fixed orientation, every defect named."""

import math
import re
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from pymatgen.core import Composition, Element, Lattice, Structure
from pymatgen.io.cif import CifBlock, CifParser, str2float

from crystal_diffusion_jax.errors import shown
from crystal_diffusion_jax.structures.cif_text import checked_text
from crystal_diffusion_jax.structures.limits import (
    MAX_ATOMS,
    MAX_CELL_LENGTH,
    MAX_FRACTIONAL,
    MAX_IMAGES,
    MIN_VOLUME,
)

# Å; closer atoms are one atom listed twice. The shortest bond there is (H-H) has 0.74 Å, while two
# listings of one site, rounded differently to two decimals in a 10 Å cell, differ by up to 0.1 Å.
MIN_DISTANCE = 0.1


# Relative; a CIF's formula is written with a few digits.
_FORMULA_TOLERANCE = 0.01


class Cell(NamedTuple):
    """One canonical crystal of N atoms.

    Attributes:
      lattice: [3, 3] float64, cell vectors as rows, in Angstrom.
      frac_coords: [N, 3] float64 in [0, 1).
      atomic_numbers: [N] int64.
    """

    lattice: np.ndarray
    frac_coords: np.ndarray
    atomic_numbers: np.ndarray


def canonical_cell(cif: str, max_num_atoms: int = 0) -> Cell:
    """Parses one CIF and brings it into canonical form; handedness is preserved.

    Deuterium and tritium count as hydrogen: the model knows atomic numbers alone.

    Raises:
      ValueError: the crystal cannot be used; the message is the reason.
    """
    try:
        return _canonical_cell(cif, max_num_atoms)
    except ValueError:
        raise
    except Exception as error:  # what pymatgen raises on odd input is open-ended
        raise ValueError(f"unparsable CIF: {type(error).__name__}: {error}") from error


def _canonical_cell(cif: str, max_num_atoms: int) -> Cell:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        structure = _parse(cif)
        limit = min(max_num_atoms or MAX_ATOMS, MAX_ATOMS)
        if len(structure) > limit:
            raise ValueError(f"too many atoms: {len(structure)}, the limit is {limit}")
        reduced = structure.get_reduced_structure(reduction_algo="niggli")
    lengths = reduced.lattice.lengths
    distances = reduced.distance_matrix
    shortest = min(*lengths, *distances[np.triu_indices(len(reduced), k=1)])
    if shortest < MIN_DISTANCE:
        raise ValueError(f"duplicate atoms at one site: two atoms only {shortest:.2g} Å apart")
    frac_coords = reduced.frac_coords - np.floor(reduced.frac_coords)
    frac_coords[frac_coords >= 1.0] = 0.0  # a tiny negative number rounds up to the next cell
    lattice = Lattice.from_parameters(*lengths, *reduced.lattice.angles).matrix
    atomic_numbers = np.array([site.specie.Z for site in reduced], dtype=np.int64)
    return Cell(np.array(lattice), frac_coords, atomic_numbers)


def _parse(cif: str) -> Structure:
    """pymatgen's standard parse of a CIF that leaves nothing to guess; ValueError otherwise."""
    cif = checked_text(cif)
    try:
        parser = CifParser.from_str(cif, check_cif=False)
    except Exception as error:  # broken text makes it raise nearly anything
        raise ValueError(f"unparsable CIF: {error}") from error
    blocks = [block for block in parser.as_dict().values() if "_atom_site_fract_x" in block]
    if len(blocks) != 1:
        raise ValueError(f"unparsable CIF: {len(blocks)} structures in it, one is expected")
    block = blocks[0]
    check_cell(block)
    check_atoms(block)
    check_images(block, parser)
    try:
        # "ignore": blocks without atoms (title, authors) are no error.
        structure = parser.parse_structures(primitive=False, on_error="ignore")[0]
    except ValueError as error:
        problems: list[str] = parser.warnings  # type: ignore[attr-defined]  # set in from_str
        reason = (problems or [str(error)])[-1].splitlines()[-1]
        # Every occupancy is 1, so pymatgen finds more only where it has merged sites.
        if reason.startswith("Occupancy"):
            reason = "duplicate atoms at one site"
        else:
            reason = f"unparsable CIF: {reason}"
        raise ValueError(reason) from error
    check_formula(block, structure)
    return structure


def check_cell(block: Mapping[str, Any]) -> None:
    """Refuses a cell without volume."""
    keys = [f"_cell_length_{axis}" for axis in "abc"]
    keys += [f"_cell_angle_{angle}" for angle in ("alpha", "beta", "gamma")]
    if not all(key in block for key in keys):
        raise ValueError("unparsable CIF: cell lengths or angles are missing")
    parameters = [_number_or_nan(block[key]) for key in keys]
    if not np.isfinite(parameters).all():
        raise ValueError("unparsable CIF: cell lengths and angles are not all numbers")
    if max(parameters[:3]) > MAX_CELL_LENGTH:
        raise ValueError(f"cell vector longer than {MAX_CELL_LENGTH:g} Å: {max(parameters[:3]):g}")
    volume = Lattice.from_parameters(*parameters).volume if min(parameters) > 0 else 0.0
    if not volume >= MIN_VOLUME:  # NaN is no volume either
        raise ValueError(f"zero volume: lengths and angles {parameters} span {volume:.3g} Å^3")


def check_atoms(block: Mapping[str, Any]) -> None:
    """Refuses elements, occupancies and coordinates that pymatgen would guess or skip."""
    for axis in "xyz":
        column = block.get(f"_atom_site_fract_{axis}")
        if not isinstance(column, list):
            raise ValueError(f"unparsable CIF: no loop_ over atoms with their {axis}")
        for text in column:
            value = _number_or_nan(text)
            if not np.isfinite(value):
                raise ValueError(f"unparsable CIF: coordinate '{shown(text)}' is not a number")
            if abs(value) > MAX_FRACTIONAL:
                raise ValueError(f"coordinate beyond {MAX_FRACTIONAL:g}: '{shown(text)}'")
    names = ("fract_x", "fract_y", "fract_z", "label", "type_symbol", "occupancy")
    lengths = {len(block[key]) for name in names if (key := f"_atom_site_{name}") in block}
    if len(lengths) != 1:
        # pymatgen would go by the labels and drop the other atoms.
        raise ValueError("unparsable CIF: the columns of atoms differ in length")
    for text in block.get("_atom_site_occupancy", []):
        if not abs(_number_or_nan(text) - 1.0) < 1e-6:  # nor is '?' a full occupancy
            raise ValueError(f"partial occupancy: {shown(text)}")
    for text in block.get("_atom_site_attached_hydrogens", []):
        if _number_or_nan(text) > 0:
            raise ValueError("hydrogen atoms are mentioned but have no coordinates")
    for symbol in block.get("_atom_site_type_symbol", block.get("_atom_site_label", [])):
        letters = re.match("[A-Za-z]*", symbol).group()  # type: ignore[union-attr]
        if not Element.is_valid_symbol(letters):
            raise ValueError(f"unknown element: '{shown(symbol)}'")


def check_images(block: Mapping[str, Any], parser: CifParser) -> None:
    """Refuses more atoms times symmetry operations than are worth the wait."""
    listed = [len(column) for key, column in block.items() if "_xyz" in key or ".xyz" in key]
    # Those of a space group's name are at most 192.
    operations = (
        math.prod(listed) if listed else len(parser.get_symops(CifBlock(dict(block), [], "")))
    )
    images = len(block["_atom_site_fract_x"]) * operations
    if images > MAX_IMAGES:
        raise ValueError(f"too many atoms: {images} images of those listed, at most {MAX_IMAGES}")


def _number_or_nan(text: str) -> float:
    """A CIF number, its uncertainty in brackets dropped; NaN when there is none ('?', '.')."""
    try:
        return np.nan if text == "." else float(str2float(text))
    except (ValueError, TypeError):  # a list is no number either
        return np.nan


def check_formula(block: Mapping[str, Any], structure: Structure) -> None:
    """Refuses a CIF whose own formula says that atoms are missing or too many."""
    try:
        stated = Composition(block["_chemical_formula_sum"]).fractional_composition
    except (KeyError, TypeError, ValueError):
        return  # no formula, or '?': nothing to compare with
    found = structure.composition.element_composition
    if not stated.almost_equals(found.fractional_composition, rtol=_FORMULA_TOLERANCE):
        raise ValueError(
            f"the atoms disagree with the CIF's formula: {found.formula} instead of "
            f"{block['_chemical_formula_sum']}"
        )
