"""CIF text -> the structure that it states, unrounded and unreduced, or the reason why not.

pymatgen repairs many defects of a CIF with only a Python warning (merged sites, skipped atoms,
guessed elements). Here each of them is an error, so the warnings are silenced.
`structures.canonical` parses with the same checks.
"""

import math
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from pymatgen.core import Composition, Element, Lattice, Structure
from pymatgen.io.cif import CifBlock, CifParser, str2float
from pymatgen.util.coord import in_coord_list_pbc

from crystal_diffusion_jax.errors import printable
from crystal_diffusion_jax.structures.conversion import checked_structure, lattice_defect
from crystal_diffusion_jax.structures.limits import (
    MAX_CIF_CHARACTERS,
    MAX_CIF_LINE,
    MAX_FRACTIONAL,
    MAX_IMAGES,
)

# In fractional units. Symmetry images of one listed atom closer than this are one atom: a special
# position written with four digits leaves images 1e-4 apart. Two *listed* atoms as close as this
# stay two, and make the structure invalid.
_SITE_TOLERANCE = 1e-3
# If one of these names occurs twice in a data block, pymatgen keeps the last.
_ONLY_ONCE = re.compile(
    r"(?<!\S)_(?:cell_length_[abc]|cell_angle_(?:alpha|beta|gamma)|atom_site_fract_[xyz])(?!\S)"
)
_CELL = [f"_cell_length_{axis}" for axis in "abc"]
_CELL += [f"_cell_angle_{angle}" for angle in ("alpha", "beta", "gamma")]
# Relative; a CIF's formula is written with a few digits.
_FORMULA_TOLERANCE = 0.01


def parse_cif(text: str) -> Structure:
    """The one structure in a CIF, in the cell and with the coordinates it states.

    Raises:
      ValueError: there is not exactly one, or it cannot be used (disordered, unknown element, no
        volume); the message is "reason: particulars" or "reason".
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # frac_tolerance=0: otherwise 0.3333 becomes 1/3, also where 0.3333 was meant.
        parser, block = parse_block(text, frac_tolerance=0.0, site_tolerance=_SITE_TOLERANCE)
        structure = structure_of(parser)
        listed = _all_listed(parser, CifBlock(block, [], ""))
        # Besides coinciding atoms of different elements, pymatgen merges those of one element, and
        # turns O and H at one site into a hydroxyl group without coordinates for H.
        if structure is None or len(structure) < len(listed):
            structure = listed
        check_formula(block, structure)
    numbers = np.array([site.specie.Z for site in structure])
    return checked_structure(structure.lattice.matrix, structure.frac_coords, numbers)


def parse_block(text: str, **tolerances: float) -> tuple[CifParser, dict[str, Any]]:
    """The parser of a CIF and its one data block with atoms, checked for ambiguities.

    Args:
      text: the CIF.
      **tolerances: options of `CifParser`.

    Raises:
      ValueError: there is not exactly one such block, or pymatgen would have to guess; the message
        is the reason.
    """
    text = _checked_text(text)
    try:
        parser = CifParser.from_str(text, check_cif=False, **tolerances)
    except Exception as error:  # broken text makes it raise nearly anything
        raise ValueError(f"unparsable CIF: {error}") from error
    blocks = [block for block in parser.as_dict().values() if "_atom_site_fract_x" in block]
    if len(blocks) != 1:
        raise ValueError(f"unparsable CIF: {len(blocks)} structures in it, one is expected")
    _check_cell(blocks[0])
    _check_atoms(blocks[0])
    _check_images(blocks[0], parser)
    return parser, blocks[0]


def structure_of(parser: CifParser) -> Structure | None:
    """pymatgen's own parse of a block that `parse_block` accepted; None if two atoms coincide.

    Raises:
      ValueError: pymatgen refuses it; the message is the reason.
    """
    try:
        # "ignore": blocks without atoms (title, authors) are not errors.
        return parser.parse_structures(primitive=False, on_error="ignore")[0]
    except Exception as error:
        problems: list[str] = parser.warnings  # type: ignore[attr-defined]  # set in from_str
        reason = (problems or [str(error)])[-1].splitlines()[-1]
        # Every occupancy is 1, so pymatgen finds more only where it has merged sites.
        if reason.startswith("Occupancy"):
            return None
        raise ValueError(f"unparsable CIF: {reason}") from error


def _checked_text(cif: str) -> str:
    """Refuses a text that would take pymatgen minutes, or of which it would drop a part.

    Returns:
      The text without blank lines; pymatgen's search for data blocks is quadratic in them.
    """
    if len(cif) > MAX_CIF_CHARACTERS:
        raise ValueError(f"too large: a CIF of {len(cif):,} characters")
    lines = [line for line in cif.splitlines() if line.strip()]
    if not lines:
        raise ValueError("empty file")
    if max(map(len, lines)) > MAX_CIF_LINE:
        raise ValueError(f"unparsable CIF: a line is longer than {MAX_CIF_LINE} characters")
    cif = "\n".join(lines)
    first, *blocks = re.split(r"^[^\S\n]*data_", cif, flags=re.MULTILINE)
    headers = [block.split(maxsplit=1)[0] if block[:1].strip() else "" for block in blocks]
    if len(set(headers)) != len(headers):
        raise ValueError("unparsable CIF: two data blocks have the same name")
    for block in (first, *blocks):
        for name, count in Counter(_ONLY_ONCE.findall(block)).items():
            if count > 1:
                raise ValueError(f"unparsable CIF: {name} occurs twice")
    return cif


def _check_cell(block: Mapping[str, Any]) -> None:
    """Refuses incomplete cells and those with a `lattice_defect`."""
    if not all(key in block for key in _CELL):
        raise ValueError("unparsable CIF: cell lengths or angles are missing")
    parameters = [_number_or_nan(block[key]) for key in _CELL]
    if not np.isfinite(parameters).all():
        raise ValueError("unparsable CIF: cell lengths and angles are not all numbers")
    positive = min(parameters) > 0
    lattice = Lattice.from_parameters(*parameters).matrix if positive else np.zeros((3, 3))
    if defect := lattice_defect(lattice):
        raise ValueError(f"{defect}: lengths and angles are {parameters}")


def _check_atoms(block: Mapping[str, Any]) -> None:
    """Refuses elements, occupancies and coordinates that pymatgen would guess or skip."""
    for axis in "xyz":
        column = block.get(f"_atom_site_fract_{axis}")
        if not isinstance(column, list):
            raise ValueError(f"unparsable CIF: no loop_ over atoms with their {axis}")
        for text in column:
            value = _number_or_nan(text)
            if not np.isfinite(value):
                raise ValueError(f"unparsable CIF: coordinate '{printable(text)}' is not a number")
            if abs(value) > MAX_FRACTIONAL:
                raise ValueError(f"coordinate beyond {MAX_FRACTIONAL:g}: '{printable(text)}'")
    names = ("fract_x", "fract_y", "fract_z", "label", "type_symbol", "occupancy")
    lengths = {len(block[key]) for name in names if (key := f"_atom_site_{name}") in block}
    if len(lengths) != 1:
        # pymatgen would go by the labels and drop the other atoms.
        raise ValueError("unparsable CIF: the columns of atoms differ in length")
    for text in block.get("_atom_site_occupancy", []):
        if not abs(_number_or_nan(text) - 1.0) < 1e-6:  # also refuses '?'
            raise ValueError(f"partial occupancy: {printable(text)}")
    for text in block.get("_atom_site_attached_hydrogens", []):
        if _number_or_nan(text) > 0:
            raise ValueError("hydrogen atoms are attached without coordinates")
    for symbol in block.get("_atom_site_type_symbol", block.get("_atom_site_label", [])):
        letters = re.match("[A-Za-z]*", symbol).group()  # type: ignore[union-attr]
        if not Element.is_valid_symbol(letters):
            raise ValueError(f"unknown element: '{printable(symbol)}'")


def _check_images(block: Mapping[str, Any], parser: CifParser) -> None:
    """Refuses more atoms times symmetry operations than can be handled in seconds."""
    listed = [len(column) for key, column in block.items() if "_xyz" in key or ".xyz" in key]
    # A space group's name stands for at most 192 operations.
    operations = (
        math.prod(listed) if listed else len(parser.get_symops(CifBlock(dict(block), [], "")))
    )
    images = len(block["_atom_site_fract_x"]) * operations
    if images > MAX_IMAGES:
        raise ValueError(f"too many atoms: {images} images of those listed, at most {MAX_IMAGES}")


def _number_or_nan(text: str) -> float:
    """A CIF number without its uncertainty in brackets; NaN for anything else ('?', '.')."""
    try:
        return np.nan if text == "." else float(str2float(text))
    except (ValueError, TypeError):  # TypeError: a list
        return np.nan


def check_formula(block: Mapping[str, Any], structure: Structure) -> None:
    """Refuses a CIF whose atoms disagree with its own formula."""
    try:
        stated = Composition(block["_chemical_formula_sum"]).fractional_composition
    except (KeyError, TypeError, ValueError):
        return  # no formula, or '?'
    found = structure.composition.element_composition
    if not stated.almost_equals(found.fractional_composition, rtol=_FORMULA_TOLERANCE):
        raise ValueError(
            f"the atoms disagree with the CIF's formula: {found.formula} instead of "
            f"{block['_chemical_formula_sum']}"
        )


def _all_listed(parser: CifParser, block: CifBlock) -> Structure:
    """The structure with the symmetry images of every listed atom, even where they coincide."""
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
