"""XSF, CSSR and RES files -> crystals, with what the libraries' readers overlook refused."""

import io
import warnings
from collections.abc import Callable

import ase
import numpy as np
from ase.io.xsf import iread_xsf
from pymatgen.core import IStructure, Structure
from pymatgen.io.cssr import Cssr
from pymatgen.io.res import ResIO

from crystal_diffusion_jax.errors import printable
from crystal_diffusion_jax.structures.conversion import checked_structure, periodic_structure


def read_xsf(text: str) -> list[Structure | str]:
    """The crystal of each step of an XSF file (XCrySDen), or the reason for none.

    Raises:
      ValueError: no XSF file, or cut off; the message is the reason.
    """
    _refuse_further_atoms(text)
    steps: list[ase.Atoms] = []
    try:
        for atoms in iread_xsf(io.StringIO(text)):
            steps.append(atoms)
    except Exception as error:  # ASE may raise anything on odd input
        raise ValueError(
            f"unreadable XSF: {type(error).__name__}: {printable(str(error), 200)}"
        ) from error
    results: list[Structure | str] = []
    for atoms in steps:
        try:
            results.append(
                periodic_structure(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
            )
        except ValueError as error:
            results.append(str(error))
    return results


def _refuse_further_atoms(text: str) -> None:
    """Raises ValueError for atoms beyond the number that is stated, which ASE would leave out."""
    rows = [line.split() for line in text.splitlines() if line.split("#")[0].strip()]
    for place, row in enumerate(rows):
        if row[0] == "PRIMCOORD" and len(rows) > place + 1 and rows[place + 1][0].isdecimal():
            stated = int(rows[place + 1][0])
            after = rows[place + 2 + stated : place + 3 + stated]
            if after and len(after[0]) > 3:  # no keyword has as many words
                raise ValueError(f"unreadable XSF: more atoms than the {stated} stated")


def read_cssr(text: str) -> Structure:
    """The crystal of a CSSR file, which has to be in P1 and fractional coordinates.

    Raises:
      ValueError: it cannot be read, or pymatgen would overlook a part; the message is the reason.
    """
    lines = text.splitlines()
    if len(lines) < 4:
        raise ValueError("unreadable CSSR: fewer than four lines")
    group = lines[1].partition("SPGR")[2].strip(" =").split()
    if group and group[0] != "1":
        raise ValueError(f"CSSR in space group {printable(' '.join(group))}: only P1 is read")
    counted = lines[2].split()
    if counted[1:2] not in ([], ["0"]):
        raise ValueError("CSSR with Cartesian coordinates: only fractional ones are read")
    structure = _parsed("CSSR", lambda: Cssr.from_str(text).structure)
    if counted[:1] != [str(len(structure))]:
        raise ValueError(
            f"unreadable CSSR: {printable(' '.join(counted[:1]))} atoms stated, "
            f"{len(structure)} readable"
        )
    return structure


def read_res(text: str) -> Structure:
    """The crystal of a RES file as AIRSS writes it: every atom listed, no symmetry.

    Raises:
      ValueError: it cannot be read, or pymatgen would overlook a part; the message is the reason.
    """
    words = [line.split() for line in text.splitlines() if line.strip()]
    if ["LATT", "-1"] not in words or any(line[0].upper() == "SYMM" for line in words):
        # SHELX itself takes a missing LATT for a centre of symmetry.
        raise ValueError("RES without LATT -1, or with SYMM: only files without symmetry are read")
    start = next((row for row, line in enumerate(words) if line[0] == "SFAC"), len(words))
    elements = dict(enumerate(words[start][1:], 1)) if start < len(words) else {}
    for atom in words[start + 1 :]:
        # In SHELX the number decides, to pymatgen the label.
        number = int(atom[1]) if len(atom) > 5 and atom[1].isdecimal() else None
        if number is not None and atom[0].rstrip("0123456789") != elements.get(number):
            raise ValueError(
                f"the atom {printable(atom[0])} is element {number} of SFAC, which is another: "
                "labels have to begin with their element"
            )
        if len(atom) > 5 and not _is_one(atom[5]):
            raise ValueError(f"disorder: an atom with occupancy {printable(atom[5])}")
    return _parsed("RES", lambda: ResIO.structure_from_str(text))


def _is_one(occupancy: str) -> bool:
    """Of SHELX, which adds ten to what it does not refine."""
    try:
        return float(occupancy) in (1.0, 11.0)
    except ValueError:
        return False


def _parsed(kind: str, parse: Callable[[], IStructure]) -> Structure:
    """What pymatgen makes of a text, checked as crystals of any other origin."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            structure = parse()
        numbers = np.array([site.specie.Z for site in structure], np.int64)
    except Exception as error:  # pymatgen may raise anything on odd input
        raise ValueError(
            f"unreadable {kind}: {type(error).__name__}: {printable(str(error), 200)}"
        ) from error
    return checked_structure(structure.lattice.matrix, structure.frac_coords, numbers)
