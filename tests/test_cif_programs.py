"""structures/cif_reader.py: files in the manner of the programs and databases that people use."""

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from tests.cif_cells import parse_cif
from tests.cif_texts import HEXAGONAL, cell
from tests.test_cif_reader import contents

ICSD = f"""#(C) a database
data_1234-ICSD
_database_code_ICSD 1234
_chemical_name_systematic 'Magnesium zinc'
_chemical_formula_structural 'Mg Zn2'
_chemical_formula_sum 'Mg1 Zn2'
_cell_formula_units_Z 4.
{cell(5.223, c=8.566, **HEXAGONAL)}_cell_volume 201.3
_space_group_name_H-M_alt 'P 63/m m c'
_space_group_IT_number 194
loop_
_atom_type_symbol
_atom_type_oxidation_number
Mg0+ 0
Zn0+ 0
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_symmetry_multiplicity
_atom_site_Wyckoff_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_B_iso_or_equiv
_atom_site_occupancy
Mg1 Mg0+ 4 f 0.3333 0.6667 0.062 . 1.
Zn1 Zn0+ 2 a 0 0 0 . 1.
Zn2 Zn0+ 6 h 0.8305(2) 0.6610(2) 0.25 . 1.
#End of TTdata_1234-ICSD
"""

SHELX = """data_shelx
_audit_creation_method 'SHELXL-2018/3'
_chemical_formula_sum 'C2 H4'
_chemical_formula_weight 28.05
loop_
 _atom_type_symbol
 _atom_type_description
 _atom_type_scat_source
 'C' 'C' 'International Tables Vol C Tables 4.2.6.8 and 6.1.1.4'
 'H' 'H' 'International Tables Vol C Tables 4.2.6.8 and 6.1.1.4'
_space_group_crystal_system monoclinic
_space_group_IT_number 14
_space_group_name_H-M_alt 'P 21/n'
_space_group_name_Hall '-P 2yn'
_shelx_space_group_comment
;
The symmetry employed for this shelxl refinement is uniquely defined
by the following loop, which should always be used as a source of
symmetry information in preference to the above space-group names.
;
loop_
 _space_group_symop_operation_xyz
 'x, y, z'
 '-x+1/2, y+1/2, -z+1/2'
 '-x, -y, -z'
 'x-1/2, -y-1/2, z-1/2'
_cell_length_a 4.626(2)
_cell_length_b 6.620(3)
_cell_length_c 4.067(2)
_cell_angle_alpha 90
_cell_angle_beta 94.39(3)
_cell_angle_gamma 90
_cell_volume 124.2(1)
_cell_formula_units_Z 2
_exptl_crystal_density_diffrn 0.750
loop_
 _atom_site_label
 _atom_site_type_symbol
 _atom_site_fract_x
 _atom_site_fract_y
 _atom_site_fract_z
 _atom_site_U_iso_or_equiv
 _atom_site_adp_type
 _atom_site_occupancy
 _atom_site_site_symmetry_order
 _atom_site_calc_flag
 _atom_site_refinement_flags_posn
 _atom_site_disorder_assembly
 _atom_site_disorder_group
C1 C -0.1166(3) 0.0543(2) -0.0436(3) 0.02 Uani 1 1 d . . .
H1 H -0.1820 0.1550 0.1550 0.03 Uiso 1 1 calc R . .
H2 H -0.2570 0.0550 -0.2530 0.03 Uiso 1 1 calc R . .
_shelx_res_file
;
data_within_a_text
CELL 0.71073 4.626 6.620 4.067 90 94.39 90
LATT 1
;
"""

FINDSYM = f"""# CIF file created by a program
data_findsym-output
_audit_creation_method FINDSYM
{cell(8.0806)}_symmetry_space_group_name_H-M "F 41/d -3 2/m (origin choice 2)"
_symmetry_Int_Tables_number 227
_space_group.reference_setting '227:F 4d 2 3 -1d'
_space_group.transform_Pp_abc a-1/8,b-1/8,c-1/8;0,0,0
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_symmetry_multiplicity
_atom_site_Wyckoff_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
_atom_site_fract_symmform
Mg1 Mg   8 a 0.12500 0.12500 0.12500 1.00000 0,0,0
Al1 Al  16 d 0.50000 0.50000 0.50000 1.00000 0,0,0
O1  O   32 e 0.26240 0.26240 0.26240 1.00000 Dx,Dx,Dx
"""

VESTA = f"""#======================================================================
# CRYSTAL DATA
#----------------------------------------------------------------------
data_VESTA_phase_1

_chemical_name_common                  'Sr Ti O3'
{cell(3.905)}_cell_volume                           59.547443
_space_group_name_H-M_alt              'P -1'
_space_group_IT_number                 2

loop_
_space_group_symop_operation_xyz
   'x, y, z'
   '-x, -y, -z'

loop_
   _atom_site_label
   _atom_site_occupancy
   _atom_site_fract_x
   _atom_site_fract_y
   _atom_site_fract_z
   _atom_site_adp_type
   _atom_site_U_iso_or_equiv
   _atom_site_type_symbol
   Sr1       1.0     0.000000     0.000000     0.000000    Uiso  ? Sr
   Ti1       1.0     0.500000     0.500000     0.500000    Uiso  ? Ti
   O1        1.0     0.500000     0.500000     0.000000    Uiso  ? O
   O2        1.0     0.500000     0.000000     0.500000    Uiso  ? O
   O3        1.0     0.000000     0.500000     0.500000    Uiso  ? O
"""

MATERIALS_STUDIO = f"""data_NaCl
_audit_creation_method            'Materials Studio'
_symmetry_space_group_name_H-M    'FM-3M'
_symmetry_Int_Tables_number       225
_symmetry_cell_setting            cubic
{cell(5.62)}loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_U_iso_or_equiv
_atom_site_adp_type
_atom_site_occupancy
NA1     Na    0.00000   0.00000   0.00000   0.00000  Uiso   1.00
CL1     Cl    0.50000   0.50000   0.50000   0.00000  Uiso   1.00
"""

# Mineral databases often have no type symbols, and origins of their own under a starred name.
MINERAL = f"""data_global
_chemical_name_mineral 'Corundum'
loop_
_publ_author_name
'A. N. Author'
_chemical_formula_sum 'Al2 O3'
{cell(4.7589, c=12.991, **HEXAGONAL)}_cell_volume 254.7
_exptl_crystal_density_diffrn 3.989
_symmetry_space_group_name_H-M 'R -3 c'
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Al   0.00000   0.00000   0.35220
O   0.30630   0.00000   0.25000
"""

PROGRAMS = {
    "ICSD": (ICSD, {"Mg": 4, "Zn": 8}),
    "SHELX": (SHELX, {"C": 4, "H": 8}),
    "FINDSYM": (FINDSYM, {"Mg": 8, "Al": 16, "O": 32}),
    "VESTA": (VESTA, {"Sr": 1, "Ti": 1, "O": 3}),
    "Materials Studio": (MATERIALS_STUDIO, {"Na": 4, "Cl": 4}),
    "mineral database": (MINERAL, {"Al": 12, "O": 18}),
}
# Textbook distances of neighbours, in Angstrom.
NEIGHBOURS = {
    "ICSD": 5.223 * (3 * 0.8305 - 2),
    "FINDSYM": 1.923,
    "VESTA": 1.9525,
    "Materials Studio": 2.81,
    "mineral database": 1.854,
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_file_of_a_program_is_read(program: str) -> None:
    text, expected = PROGRAMS[program]
    assert contents(text) == expected


@pytest.mark.parametrize("program", NEIGHBOURS)
def test_neighbours_in_the_file_of_a_program_are_where_they_are_known_to_be(program: str) -> None:
    structure = parse_cif(PROGRAMS[program][0])
    distances = structure.distance_matrix[np.triu_indices(len(structure), 1)]
    assert distances.min() == pytest.approx(NEIGHBOURS[program], abs=0.01)


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")
@pytest.mark.parametrize("group", ["Pnma", "P2_1/c", "I4_1/amd", "R-3m", "P6_3/mmc", "Fd-3m"])
def test_what_pymatgen_symmetrises_is_the_same_crystal(group: str) -> None:
    lengths = {"P": (6, 7, 8), "I": (6, 6, 8), "R": (6, 6, 9), "F": (9, 9, 9)}[group[0]]
    angles = (90, 100, 90) if group == "P2_1/c" else (90, 90, 90)
    if group in ("R-3m", "P6_3/mmc"):
        lengths, angles = (6, 6, 9), (90, 90, 120)
    lattice = Lattice.from_parameters(*lengths, *angles)
    positions = [[0.0, 0.0, 0.0], [0.05, 0.25, 0.4]]
    crystal = Structure.from_spacegroup(group, lattice, ["Na", "Cl"], positions)
    read = parse_cif(str(CifWriter(crystal, symprec=0.01)))
    assert StructureMatcher(scale=False, stol=1e-3, primitive_cell=False).fit(read, crystal)
