"""Generated arrays -> pymatgen structures, CIF and extended XYZ text: the mirror of `data.read`."""

import io
import os
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence

import ase
import ase.io
import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Composition, Element, Lattice, Structure
from pymatgen.io.cif import CifParser, CifWriter
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from crystal_diffusion_jax.data.limits import MAX_CELL_LENGTH, MIN_VOLUME
from crystal_diffusion_jax.errors import UserError

# Above this |cos| of the angle between two cell vectors the cell is numerically flat: 2.6 degrees.
MAX_ABS_COSINE = 0.999
# Tolerance in Angstrom to read off the symmetry of a cell that spglib has already idealised; its
# coordinates are exact to about 1e-7, so that only operations that hold exactly are found.
IDEALISED_SYMPREC = 1e-4

# Longest vector cubed over volume, above which a cell is written as it is: comparing it with its
# symmetrised form takes memory in proportion to this (4.6 GB at 2e6;
# the largest of those crystals of MP-20 is 243).
MAX_ELONGATION = 1e4

# spglib's C code prints its failed attempts to stderr, though it goes on to succeed with a
# smaller tolerance or raises, which `to_cif` handles. A value set by the user is respected.
os.environ.setdefault("SPGLIB_WARNING", "OFF")


def cell_defect(lattice: np.ndarray, frac_coords: np.ndarray) -> str | None:
    """Why a generated crystal must not be written as a structure; None when it may be.

    Args:
      lattice: [3, 3] cell vectors as rows, in Angstrom.
      frac_coords: [N, 3] fractional coordinates.
    """
    lattice = np.asarray(lattice, dtype=np.float64)
    if not (np.isfinite(lattice).all() and np.isfinite(frac_coords).all()):
        return "non-finite numbers"
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(lattice, axis=-1)
    if lengths.max() > MAX_CELL_LENGTH:
        return f"cell vector longer than {MAX_CELL_LENGTH:g} A"
    if abs(np.linalg.det(lattice)) < MIN_VOLUME:
        return f"volume below {MIN_VOLUME} A^3"
    unit = lattice / lengths[:, None]
    cosines = (unit @ unit.T)[np.triu_indices(3, k=1)]
    if np.abs(cosines).max() > MAX_ABS_COSINE:
        return f"collinear cell vectors (|cos| > {MAX_ABS_COSINE})"
    return None


def to_structure(
    lattice: np.ndarray, frac_coords: np.ndarray, atomic_numbers: np.ndarray
) -> Structure:
    """The crystal in canonical form: right-handed cell of fixed orientation, coordinates in [0, 1).

    The cell is rebuilt from its lengths and angles. A left-handed cell thereby turns into its
    mirror image, which has the same distances, energy and properties; the denoiser cannot tell
    the two apart, because it sees the lattice through its Gram matrix.

    Args:
      lattice: [3, 3] cell vectors as rows, in Angstrom, without a `cell_defect`.
      frac_coords: [N, 3] fractional coordinates, any real numbers.
      atomic_numbers: [N] int.
    """
    canonical = Lattice.from_parameters(*Lattice(np.asarray(lattice, np.float64)).parameters)
    wrapped = np.mod(np.asarray(frac_coords, np.float64), 1.0)
    # A tiny negative number leaves exactly 1.0, which is the same point as 0.
    wrapped[wrapped >= 1.0] = 0.0
    return restore_structure(canonical.matrix, wrapped, atomic_numbers)


def restore_structure(
    lattice: np.ndarray, frac_coords: np.ndarray, atomic_numbers: np.ndarray
) -> Structure:
    """The structure with exactly these numbers, to restore a recorded `to_structure` bit by bit.

    Args:
      lattice: [3, 3] cell vectors as rows, in Angstrom.
      frac_coords: [N, 3] fractional coordinates in [0, 1).
      atomic_numbers: [N] int.
    """
    return Structure(Lattice(lattice), _elements(atomic_numbers), frac_coords)


def to_cif(structure: Structure, symprec: float) -> str:
    """The structure as CIF text.

    Where spglib finds a symmetry beyond P1, the CIF holds the idealised conventional cell with its
    space group and the inequivalent sites; otherwise, wherever the symmetrised text would not read
    back as the same crystal, and for cells beyond MAX_ELONGATION, the cell as it is, in P1.

    Args:
      structure: the crystal.
      symprec: how far atoms may lie from their symmetric positions, in Angstrom; 0 asks for P1.
    """
    with warnings.catch_warnings():
        _ignore_known_warnings()
        compact = max(structure.lattice.abc) ** 3 < MAX_ELONGATION * structure.volume
        text = _symmetrised_cif(structure, symprec) if symprec > 0 and compact else None
        return text or str(CifWriter(structure))


def to_extxyz(structures: Sequence[Structure], infos: Sequence[Mapping[str, float | str]]) -> str:
    """Extended XYZ text with one frame a structure, as written by ASE.

    Args:
      structures: the frames.
      infos: for each frame, what its comment line says besides the cell, e.g. {"index": 3}.
    """
    frames = []
    for structure, info in zip(structures, infos, strict=True):
        frames.append(to_ase(structure))
        frames[-1].info.update(info)
    text = io.StringIO()
    ase.io.write(text, frames, format="extxyz")
    return text.getvalue()


def to_ase(structure: Structure) -> ase.Atoms:
    """The structure as ASE has it, periodic in all directions."""
    return ase.Atoms(
        numbers=structure.atomic_numbers,
        cell=structure.lattice.matrix,
        positions=structure.cart_coords,  # scaled ones would need a cell that has a volume
        pbc=True,
    )


def from_ase(atoms: ase.Atoms) -> Structure:
    """ASE's crystal as pymatgen has it.

    Raises:
      UserError: it is not periodic in all directions.
    """
    if not atoms.pbc.all():
        raise UserError("a crystal must be periodic in all directions (pbc)")
    return Structure.from_ase_atoms(atoms)


def parse_elements(
    symbols: str | None, vocabulary: Sequence[int], flag: str = "elements"
) -> list[tuple[str, int]] | None:
    """Reads a list of elements: "Ba,Ti,O" -> [("Ba", 56), ("Ti", 22), ("O", 8)].

    Args:
      symbols: separated by commas, or as in "Ba-Ti-O" if `flag` is "chemical_system"; None stays
        None.
      vocabulary: atomic numbers that the model knows.
      flag: where they come from, for messages.

    Raises:
      UserError: a symbol that names no element, or none of the vocabulary.
    """
    if symbols is None:
        return None
    found = []
    separators = "[,-]" if flag == "chemical_system" else ","
    for symbol in (part.strip() for part in re.split(separators, symbols)):
        if not Element.is_valid_symbol(symbol):
            raise UserError(
                f"--{flag}={symbols}: {symbol!r} is no element symbol; they are written as in "
                f"--elements=Ba,Ti,O or --chemical_system=Ba-Ti-O"
            )
        element = Element(symbol)
        if element.Z not in vocabulary:
            known = ",".join(Element.from_Z(z).symbol for z in vocabulary)
            raise UserError(f"--{flag}={symbols}: the model never saw {symbol}, only {known}")
        found.append((element.symbol, int(element.Z)))
    return found


def common_oxidation_states(atomic_numbers: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Those of each element by pymatgen; 0 for an element without any."""
    elements = [Element.from_Z(number) for number in atomic_numbers]
    return tuple(tuple(element.common_oxidation_states) or (0,) for element in elements)


def minimum_distance(structure: Structure) -> float:
    """Smallest distance of two different atoms in the periodic crystal, in Angstrom.

    Infinite for one atom: distances of an atom to its own images are not counted.
    """
    distances = structure.distance_matrix  # [N, N], minimum image
    return float(np.min(distances[np.triu_indices(len(structure), k=1)], initial=np.inf))


def reduced_formula(atomic_numbers: np.ndarray) -> str:
    """The reduced formula in pymatgen's order of elements, e.g. "BaTiO3".

    Args:
      atomic_numbers: [N] int.
    """
    with warnings.catch_warnings():
        _ignore_known_warnings()
        return str(Composition(Counter(_elements(atomic_numbers))).reduced_formula)


def _symmetrised_cif(structure: Structure, symprec: float) -> str | None:
    """CIF with space group, or None where there is no symmetry or it would change the crystal."""
    try:
        # angle_tolerance < 0 has spglib judge angles by `symprec` too; pymatgen's default of 5
        # degrees would straighten a rhombohedral cell to a cubic one.
        analyzer = SpacegroupAnalyzer(structure, symprec, angle_tolerance=-1)
        if analyzer.get_space_group_number() == 1:
            return None
        idealised = analyzer.get_refined_structure()
        text = _cif_with_space_group(idealised)
        # The file's own check compares formulas only, so it is left out for the one below.
        parser = CifParser.from_str(text, frac_tolerance=0.0, check_cif=False)
        (reread,) = parser.parse_structures(primitive=False, on_error="raise")
        return text if _is_same_crystal(structure, reread, symprec) else None
    except Exception:  # whatever fails in the search for symmetry, the P1 text remains true
        return None


def _cif_with_space_group(idealised: Structure) -> str:
    """CIF text of an exactly symmetric conventional cell: operations and inequivalent sites.

    `CifWriter(symprec=...)` is not used for this: it looks for operations once more with the loose
    tolerance and 5 degrees, and so pairs the cell with a space group that it does not have.
    """
    analyzer = SpacegroupAnalyzer(idealised, IDEALISED_SYMPREC, angle_tolerance=-1)
    orbits = analyzer.get_symmetry_dataset().equivalent_atoms
    representatives, multiplicity = np.unique(orbits, return_counts=True)
    operations = [operation.as_xyz_str() for operation in analyzer.get_symmetry_operations()]

    file = CifWriter(idealised).cif_file
    (block,) = file.data.values()
    for key, column in block.data.items():
        if key.startswith("_atom_site_"):
            block.data[key] = [column[site] for site in representatives]
    block.data |= {
        "_symmetry_space_group_name_H-M": analyzer.get_space_group_symbol(),
        "_symmetry_Int_Tables_number": analyzer.get_space_group_number(),
        "_symmetry_equiv_pos_site_id": [str(i + 1) for i in range(len(operations))],
        "_symmetry_equiv_pos_as_xyz": operations,
        "_atom_site_symmetry_multiplicity": [str(count) for count in multiplicity],
    }
    return str(file)


def _is_same_crystal(structure: Structure, other: Structure, max_rms: float) -> bool:
    """Whether composition, primitive cell and atoms agree, these within `max_rms` Angstrom."""
    # The matcher measures distances in units of the cube root of the volume per atom.
    unit = np.cbrt(structure.volume / len(structure))
    return bool(StructureMatcher(stol=max_rms / unit, scale=False).fit(structure, other))


def _ignore_known_warnings() -> None:
    """Silences, within `warnings.catch_warnings`, what pymatgen and spglib say without need."""
    # pymatgen calls spglib in the older of its two error styles, whose failures it checks for.
    warnings.filterwarnings("ignore", "Set OLD_ERROR_HANDLING", DeprecationWarning)
    # He, Ne and Ar have no electronegativity to be sorted by in a formula.
    warnings.filterwarnings("ignore", "No Pauling electronegativity", UserWarning)
    # Atoms that symmetry moves onto each other: the text is then not the same crystal, hence P1.
    warnings.filterwarnings("ignore", "Some occupancies", UserWarning)


def _elements(atomic_numbers: np.ndarray) -> list[Element]:
    return [Element.from_Z(int(number)) for number in atomic_numbers]
