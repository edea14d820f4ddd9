"""Each crystal on the page: symmetry, cell, prediction, nearest training crystal, CIF."""

import dataclasses
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.evaluation.checks import Failure
from crystal_diffusion_jax.report.scenes import SHIFTS
from crystal_diffusion_jax.structures.cif_writer import to_cif
from crystal_diffusion_jax.structures.compositions import reduced_formula
from crystal_diffusion_jax.structures.reading import Inputs

_ELEMENTS = 118
# Atoms this close to a face of the cell (fractional) are drawn on the opposite face too.
_EDGE = 0.02


@dataclasses.dataclass(frozen=True)
class Entry:
    """One crystal, ready for JSON.

    Attributes:
      name: file or frame it comes from.
      formula: reduced.
      space_group: symbol and number, within the tolerance of symmetry.
      cell: lengths in Angstrom and angles in degrees.
      num_atoms: atoms in the cell.
      density: g/cm^3.
      value: predicted property, None without a prediction.
      valid: in structure and composition; None if not checked.
      novel: not in the training set; None if not compared.
      failure: why it is invalid, has no prediction, or is not compared; "" without.
      nearest: formula, property and id of the training crystal nearest in composition, then in
        volume per atom.
      cif: content of the file to download.
      lattice: [3][3] cell vectors as rows, Angstrom.
      symbols: element of each atom that is drawn.
      positions: their Cartesian coordinates relative to the first atom, Angstrom.
    """

    name: str
    formula: str
    space_group: str
    cell: tuple[float, ...]
    num_atoms: int
    density: float
    value: float | None
    valid: bool | None
    novel: bool | None
    failure: str
    nearest: str
    cif: str
    lattice: list[list[float]]
    symbols: list[str]
    positions: list[list[float]]


def entries(
    inputs: Inputs,
    train: CrystalDataset | None,
    symprec: float,
    values: np.ndarray | None = None,
    valid: np.ndarray | None = None,
    novel: np.ndarray | None = None,
    failures: Sequence[Failure] = (),
) -> list[Entry]:
    """One entry per readable crystal, in order.

    Args:
      inputs: n crystals.
      train: the training split, to find the nearest crystals in.
      symprec: tolerance of symmetry in Angstrom, for space groups and CIF files.
      values: [n] predicted property, NaN without a prediction.
      valid: [n] bool.
      novel: [n] bool.
      failures: of the crystals.
    """
    nearest = None if train is None else _Nearest(train)
    reasons = defaultdict(list)
    for failure in failures:
        reasons[failure.index].append(failure.text)
    found = []
    for index, structure in enumerate(inputs.structures):
        if structure is None:
            continue
        value = np.nan if values is None else float(values[index])
        frac_coords = cell_of_first_atom(structure)
        atom, shift = drawn_atoms(frac_coords)
        drawn = map(structure.lattice.get_cartesian_coords, frac_coords[atom] + shift)
        found.append(
            Entry(
                name=inputs.names[index],
                formula=reduced_formula(structure.atomic_numbers),
                space_group=space_group(structure, symprec),
                cell=tuple(round(x, 3) for x in structure.lattice.parameters),
                num_atoms=len(structure),
                density=round(float(structure.density), 3),
                value=round(value, 4) if np.isfinite(value) else None,
                valid=None if valid is None else bool(valid[index]),
                novel=None if novel is None else bool(novel[index]),
                failure="; ".join(reasons[index]),
                nearest="" if nearest is None else nearest(structure),
                cif=to_cif(structure, symprec),
                lattice=np.round(structure.lattice.matrix, 4).tolist(),
                symbols=[structure[i].specie.symbol for i in atom],
                positions=[np.round(position, 3).tolist() for position in drawn],
            )
        )
    return found


def space_group(structure: Structure, symprec: float) -> str:
    """Symbol and number, "unknown" where spglib finds none; `symprec` in Angstrom."""
    with warnings.catch_warnings():
        # pymatgen calls spglib in the older of its two error styles.
        warnings.filterwarnings("ignore", "Set OLD_ERROR_HANDLING", DeprecationWarning)
        try:
            # As in `to_cif`: angles are compared by distance too.
            symbol, number = structure.get_space_group_info(max(symprec, 1e-3), angle_tolerance=-1)
            return f"{symbol} ({number})"
        except Exception:  # spglib fails in several ways
            return "unknown"


def cell_of_first_atom(structure: Structure) -> np.ndarray:
    """[N, 3] fractional coordinates relative to the first atom, in [-0.02, 0.98].

    The first atom is the origin, because that of a generated cell is arbitrary.
    """
    frac = np.mod(structure.frac_coords - structure.frac_coords[0], 1.0)
    return np.where(frac > 1.0 - _EDGE, frac - 1.0, frac)


def drawn_atoms(frac_coords: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The given atoms, and their images in the cell or on its faces, edges and corners.

    Args:
      frac_coords: [N, 3] any real numbers.

    Returns:
      [M] index of the atom that each one is, ascending; [M, 3] int, cells by which it is shifted.
    """
    images = frac_coords[:, None] + SHIFTS
    inside = np.all((images > -_EDGE) & (images < 1.0 + _EDGE), axis=-1)
    atom, shift = np.nonzero(inside | ~SHIFTS.any(axis=-1))
    return atom, SHIFTS[shift]


class _Nearest:
    """Finds the training crystal nearest in atomic fractions, then in volume per atom."""

    def __init__(self, train: CrystalDataset) -> None:
        self._train = train
        self._fractions = np.zeros((len(train), _ELEMENTS + 1), np.float32)
        row = np.repeat(np.arange(len(train)), train.num_atoms)
        np.add.at(self._fractions, (row, train.atomic_numbers), 1.0)
        self._fractions /= train.num_atoms[:, None]
        self._volume = np.abs(np.linalg.det(train.lattice)) / train.num_atoms

    def __call__(self, structure: Structure) -> str:
        wanted = np.bincount(structure.atomic_numbers, minlength=_ELEMENTS + 1) / len(structure)
        distance = np.abs(self._fractions - wanted).sum(axis=1).round(4)
        closest = np.flatnonzero(distance == distance.min())
        volume = structure.volume / len(structure)
        row = int(closest[np.argmin(np.abs(self._volume[closest] - volume))])
        found = self._train.take(np.array([row]))
        value, name = found.properties[0, 0], found.material_ids[0]
        return f"{reduced_formula(found.atomic_numbers)}, {value:.3f} ({name})"


def element_counts(structures: Sequence[Structure | None]) -> Counter[str]:
    """Symbol -> number of crystals that contain the element."""
    return Counter(
        element.symbol
        for structure in structures
        if structure is not None
        for element in structure.composition.elements
    )
