"""POSCAR, CONTCAR and *.vasp files -> the structure that they state.

The format: https://www.vasp.at/wiki/index.php/POSCAR. Read here, because pymatgen and ASE guess the
elements where none are named, and pymatgen misplaces Cartesian coordinates if a volume is given.
"""

import itertools
import re

import numpy as np
from pymatgen.core import Element, Structure

from crystal_diffusion_jax.errors import printable
from crystal_diffusion_jax.structures.conversion import checked_structure, lattice_defect
from crystal_diffusion_jax.structures.limits import MAX_ATOMS


def read_poscar(text: str) -> Structure:
    """The one structure of a POSCAR.

    Raises:
      ValueError: it is not a POSCAR, names no elements (VASP 4), or cannot be used; the message is
        the reason.
    """
    lines = [line.strip() for line in text.splitlines()]
    if len(lines) < 8:
        raise ValueError("unreadable POSCAR: fewer than eight lines")
    lattice = _lattice(_numbers(lines[1], "scale"), [_vector(line) for line in lines[2:5]])
    elements, rest = _elements(lines[5:])
    if rest and rest[0][:1] in ("s", "S"):  # selective dynamics: flags behind the coordinates
        rest = rest[1:]
    mode = rest[0][:1].lower() if rest else ""
    if not mode.isalpha():
        raise ValueError("unreadable POSCAR: neither Direct nor Cartesian above the coordinates")
    listed, after = rest[1 : 1 + len(elements)], rest[1 + len(elements) :]
    if len(listed) < len(elements):
        raise ValueError(f"unreadable POSCAR: it ends before its {len(elements)} atoms")
    if after and re.match(r"[-+.\d]", after[0]):
        raise ValueError(f"unreadable POSCAR: more coordinates than its {len(elements)} atoms")
    coords = np.array([_vector(line) for line in listed]).reshape(-1, 3)
    with np.errstate(all="ignore"):  # overflow gives non-finite numbers, which are refused
        if mode in "ck":
            unscaled = np.array([_vector(line) for line in lines[2:5]])
            coords = coords @ np.linalg.inv(unscaled)  # the scale is that of both and cancels
        return checked_structure(lattice, coords, np.array(elements, int))


def _numbers(line: str, what: str) -> list[float]:
    try:
        return [float(word) for word in line.split()]
    except ValueError:
        raise ValueError(f"unreadable POSCAR: {what} '{printable(line)}'") from None


def _vector(line: str) -> list[float]:
    """The first three numbers of a line."""
    found = _numbers(" ".join(line.split()[:3]), "vector")
    if len(found) != 3:
        raise ValueError(f"unreadable POSCAR: vector '{printable(line)}'")
    return found


def _lattice(scale: list[float], vectors: list[list[float]]) -> np.ndarray:
    """[3, 3] cell vectors: times one factor, one for each axis, or scaled to a volume."""
    lattice = np.array(vectors)
    if len(scale) not in (1, 3) or not np.isfinite(scale).all() or 0 in scale:
        raise ValueError(f"unreadable POSCAR: scale {scale}")
    factor = np.array(scale)
    if scale[0] < 0 and len(scale) == 1:
        if defect := lattice_defect(lattice / np.abs(lattice).max(initial=1e-300)):
            raise ValueError(defect)
        factor = np.cbrt(-factor / abs(np.linalg.det(lattice)))
    elif min(scale) < 0:
        raise ValueError(f"unreadable POSCAR: scale {scale}")
    with np.errstate(over="ignore"):
        lattice = lattice * factor
    if defect := lattice_defect(lattice):
        raise ValueError(defect)
    return lattice


def _elements(lines: list[str]) -> tuple[list[int], list[str]]:
    """[N] atomic numbers, from lines of symbols and lines of numbers of atoms; and what follows."""
    # VASP writes twenty to a line.
    words = [line.split() for line in lines]
    symbols = list(itertools.takewhile(lambda row: row and not row[0].isdigit(), words))
    counts = words[len(symbols) : 2 * len(symbols)]
    if not symbols:
        raise ValueError("a POSCAR without a line of elements (VASP 4): add one above the numbers")
    try:
        numbers = [int(word) for row in counts for word in row]
    except ValueError:
        raise ValueError("unreadable POSCAR: no numbers of atoms below the elements") from None
    names = [word for row in symbols for word in row]
    if len(names) != len(numbers) or min(numbers) < 0:
        raise ValueError(
            f"unreadable POSCAR: {len(names)} elements and {len(numbers)} numbers of atoms"
        )
    if sum(numbers) > MAX_ATOMS:
        raise ValueError(f"too many atoms: {sum(numbers)}, the limit is {MAX_ATOMS}")
    elements = []
    for name, number in zip(names, numbers, strict=True):
        symbol = re.split("[_/]", name)[0]  # of a potential: Mg_pv/f474ac0d
        if not Element.is_valid_symbol(symbol):
            raise ValueError(f"unknown element: '{printable(name)}'")
        elements += [Element(symbol).Z] * number
    return elements, lines[2 * len(symbols) :]
