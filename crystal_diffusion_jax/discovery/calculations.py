"""A crystal as input of DFT programs: VASP as the Materials Project runs it, Quantum ESPRESSO.

No pseudopotentials are written, as VASP's may not be handed on: POTCAR.spec names those to take,
one a line, and the input of Quantum ESPRESSO has placeholders such as Ba.UPF.
"""

import warnings
from pathlib import Path

import ase.io
from pymatgen.core import Structure
from pymatgen.io.vasp import Poscar
from pymatgen.io.vasp.sets import MPRelaxSet, MPScanRelaxSet
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from crystal_diffusion_jax.discovery.settings import Cell
from crystal_diffusion_jax.structures.conversion import to_ase

VASP_SETS = (MPRelaxSet, MPScanRelaxSet)
POSCAR = "POSCAR"
ESPRESSO = "espresso.in"
# Cutoffs in Ry and smearing as for most of the SSSP library's pseudopotentials (Prandini et al.,
# npj Comput. Mater. 4, 72 (2018)): a start, to be converged for the ones that are taken.
ESPRESSO_SETTINGS = {
    "calculation": "vc-relax",
    "ecutwfc": 60,
    "ecutrho": 480,
    "occupations": "smearing",
    "smearing": "cold",
    "degauss": 0.01,
}
# 1/Angstrom without 2 pi: 7 points along a cell vector of 4 Angstrom.
ESPRESSO_K_SPACING = 0.04


def in_cell(structure: Structure, cell: Cell, symprec: float) -> Structure:
    """The crystal in the cell that is asked for, one block of atoms per element.

    Args:
      structure: the crystal.
      cell: "as_relaxed", or the standard "primitive" or "conventional" cell, symmetrised.
      symprec: how far atoms may lie from their symmetric positions, in Angstrom; with 0 the crystal
        stays as it is.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older error style of spglib; noble gases unsorted
        if cell != "as_relaxed" and symprec > 0:
            # Angles are judged by `symprec` too, as in `cif_writer`.
            analyzer = SpacegroupAnalyzer(structure, symprec, angle_tolerance=-1)
            if cell == "primitive":
                structure = analyzer.get_primitive_standard_structure()
            else:
                structure = analyzer.get_conventional_standard_structure()
        return structure.get_sorted_structure()


def unknown_elements(kind: type[MPRelaxSet | MPScanRelaxSet], structure: Structure) -> list[str]:
    """Symbols of the elements that a set names no pseudopotential for.

    pymatgen itself would name one that does not exist.
    """
    symbols = {element.symbol for element in structure.composition}
    return sorted(symbols - kind.CONFIG["POTCAR"].keys())


def write_inputs(folder: Path, structure: Structure) -> None:
    """Writes POSCAR, espresso.in, and a folder for each of `VASP_SETS` that knows the elements.

    Args:
      folder: exists.
      structure: as `in_cell` gives it.
    """
    (folder / POSCAR).write_text(Poscar(structure).get_str(significant_figures=12))
    for kind in VASP_SETS:
        if not unknown_elements(kind, structure):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # on the age of pseudopotentials
                files = kind(structure).get_input_set(potcar_spec=True)
                files.write_input(folder / kind.__name__)
    atoms = to_ase(structure)
    ase.io.write(
        folder / ESPRESSO,
        atoms,
        format="espresso-in",
        input_data=ESPRESSO_SETTINGS,
        pseudopotentials={symbol: f"{symbol}.UPF" for symbol in set(atoms.get_chemical_symbols())},
        kspacing=ESPRESSO_K_SPACING,
    )
