"""Files of one crystal in every kind that is read, written by pymatgen and ASE."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.db
import ase.io
from pymatgen.core import Structure
from pymatgen.io.cssr import Cssr
from pymatgen.io.res import ResIO
from pymatgen.io.xcrysden import XSF

Writer = Callable[[Path, Structure], object]


def atoms(structure: Structure) -> ase.Atoms:
    """For ASE's writers."""
    return ase.Atoms(
        numbers=structure.atomic_numbers,
        cell=structure.lattice.matrix,
        scaled_positions=structure.frac_coords,
        pbc=True,
    )


def with_ase(kind: str, **options: Any) -> Writer:
    return lambda path, structure: ase.io.write(path, atoms(structure), format=kind, **options)


def text(of: Callable[[Structure], str]) -> Writer:
    return lambda path, structure: path.write_text(of(structure))


def compressed(of: Callable[[Structure], str]) -> Writer:
    return lambda path, structure: path.write_bytes(gzip.compress(of(structure).encode()))


def to_json(structure: Structure) -> str:
    return json.dumps(structure.as_dict())


WRITERS: dict[str, Writer] = {
    "pymatgen.cif": text(lambda structure: structure.to(fmt="cif", significant_figures=12)),
    "UPPER.CIF": text(lambda structure: structure.to(fmt="cif", significant_figures=12)),
    "ase.cif": with_ase("cif"),
    "pymatgen.cif.gz": compressed(lambda structure: structure.to(fmt="cif")),
    "POSCAR": text(lambda structure: structure.to(fmt="poscar")),
    "CONTCAR_relaxed": with_ase("vasp", vasp5=True, direct=True),
    "cartesian.vasp": with_ase("vasp", vasp5=True, direct=False),
    "mp-1.POSCAR.gz": compressed(lambda structure: structure.to(fmt="poscar")),
    "pymatgen.json": text(to_json),
    "ase.json": with_ase("json"),
    "many.json": text(lambda structure: f"[{to_json(structure)}]"),
    "entry.json": text(lambda structure: f'{{"entry_id": "a", "structure": {to_json(structure)}}}'),
    "compressed.json.gz": compressed(to_json),
    "pymatgen.xsf": text(lambda structure: XSF(structure).to_str()),
    "ase.xsf": with_ase("xsf"),
    "pymatgen.cssr": text(lambda structure: str(Cssr(structure))),
    "pymatgen.res": text(lambda structure: str(ResIO.structure_to_str(structure))),
    "ase.res": with_ase("res"),
    "ase.extxyz": with_ase("extxyz"),
    "ase.xyz": with_ase("extxyz"),
    "ase.traj": with_ase("traj"),
    "ase.db": lambda path, structure: ase.db.connect(path).write(atoms(structure)),
}
