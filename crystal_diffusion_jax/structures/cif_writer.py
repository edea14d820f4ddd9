"""CIF text of a structure, symmetrised where a symmetry is found."""

import os
import warnings

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure
from pymatgen.io.cif import CifFile, CifParser, CifWriter
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

# Tolerance in Angstrom to find the symmetry of a cell that spglib has already idealised; its
# coordinates are exact to about 1e-7, so that only exact operations are found.
IDEALISED_SYMPREC = 1e-4
# Longest vector cubed over volume. Above it a cell is written as it is, since the memory to compare
# it with its symmetrised form grows with this ratio (4.6 GB at 2e6; at most 243 in MP-20).
MAX_ELONGATION = 1e4
# spglib's C code prints its failed attempts to stderr, though it goes on to succeed with a
# smaller tolerance or raises, which `to_cif` handles. A value set by the user is respected.
os.environ.setdefault("SPGLIB_WARNING", "OFF")


def to_cif(structure: Structure, symprec: float) -> str:
    """The structure as CIF text.

    Where spglib finds a symmetry beyond P1, the CIF holds the idealised conventional cell with its
    space group and the inequivalent sites. Otherwise, or where the symmetrised text would not read
    back as the same crystal, or the cell is beyond MAX_ELONGATION, it is the cell as it is, in P1.

    Args:
      structure: the crystal.
      symprec: how far atoms may lie from their symmetric positions, in Angstrom; 0 means P1.
    """
    with warnings.catch_warnings():
        # pymatgen calls spglib in the older of its two error styles, whose failures it checks for.
        warnings.filterwarnings("ignore", "Set OLD_ERROR_HANDLING", DeprecationWarning)
        # He, Ne and Ar have no electronegativity to sort them by.
        warnings.filterwarnings("ignore", "No Pauling electronegativity", UserWarning)
        # Atoms that symmetry moves onto each other; the result is not the same crystal, hence P1.
        warnings.filterwarnings("ignore", "Some occupancies", UserWarning)
        compact = max(structure.lattice.abc) ** 3 < MAX_ELONGATION * structure.volume
        text = _symmetrised_cif(structure, symprec) if symprec > 0 and compact else None
        return text or str(_in_p1(structure))


def _in_p1(structure: Structure) -> CifFile:
    file = CifWriter(structure).cif_file
    (block,) = file.data.values()
    if len(structure.composition) == 1:
        # pymatgen's formulas of H, N, O, F and Cl are molecules, of which a cell may have a half.
        block.data["_chemical_formula_structural"] = structure[0].specie.symbol
        block.data["_cell_formula_units_Z"] = str(len(structure))
    return file


def _symmetrised_cif(structure: Structure, symprec: float) -> str | None:
    """CIF with space group; None without symmetry, or if it would change the crystal."""
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
    except Exception:  # whichever step failed, P1 is correct
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

    file = _in_p1(idealised)
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
