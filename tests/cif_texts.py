"""Small CIF texts."""

from collections.abc import Sequence


def cell(a: float, b: float | None = None, c: float | None = None, **angles: float) -> str:
    """Lines of a cell; equal lengths and right angles where none are given."""
    lengths = {"a": a, "b": b or a, "c": c or a}
    angles = {"alpha": 90, "beta": 90, "gamma": 90} | angles
    lines = [f"_cell_length_{axis} {length}" for axis, length in lengths.items()]
    lines += [f"_cell_angle_{name} {angle}" for name, angle in angles.items()]
    return "\n".join(lines) + "\n"


HEXAGONAL = {"gamma": 120}


def group(name: str) -> str:
    return f"_symmetry_space_group_name_H-M '{name}'\n"


def operations(*triplets: str) -> str:
    return "\n".join(["loop_", "_symmetry_equiv_pos_as_xyz", *(f"'{t}'" for t in triplets), ""])


def atoms(*rows: str, more: Sequence[str] = (), label_only: bool = False) -> str:
    """A loop of atoms: label, type symbol, x, y, z and more columns."""
    columns = ["label", *([] if label_only else ["type_symbol"]), "fract_x", "fract_y", "fract_z"]
    tags = [f"_atom_site_{column}" for column in (*columns, *more)]
    return "\n".join(["loop_", *tags, *rows, ""])


CSCL_ATOMS = atoms("Cs1 Cs 0 0 0", "Cl1 Cl 0.5 0.5 0.5")
CSCL = cell(4.12) + CSCL_ATOMS
