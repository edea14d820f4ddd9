"""Energy above the convex hull of known phases.

The hull at a composition is the lowest energy of any mixture of known phases with that composition,
a linear programme (e.g. Ong et al., Chem. Mater. 20, 1798 (2008)). Elements are always among the
phases, at 0 eV/atom at most, so every composition has a hull. A hull knows only the phases it was
made from: where a system has no known compounds a crystal competes with the elements alone, and
any bound compound then lies "below the hull". `AboveHull.compounds_only` tells such cases apart.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from scipy.optimize import linprog

from crystal_diffusion_jax.errors import UserError, did_you_mean, printable
from crystal_diffusion_jax.potentials.materials_project import known_phases
from crystal_diffusion_jax.structures.compositions import (
    SYMBOLS,
    ReducedComposition,
    parse_formula,
    reduced_composition,
    reduced_formula,
)
from crystal_diffusion_jax.structures.csv_tables import join_names, read_rows

# eV/atom; crystals less than this above the hull are often counted as perhaps metastable, e.g. by
# MatterGen (Zeni et al., Nature 639, 624 (2025)).
NEAR_HULL = 0.1
COLUMNS = ("formula", "formation_energy_per_atom")
# eV/atom; the most stable compounds (fluorides, rare-earth oxides) are bound by less than 5.
_MAX_FORMATION_ENERGY = 50.0
# Fractions of atoms that a solver's rounding leaves.
_NO_ATOMS = 1e-7


@dataclasses.dataclass(frozen=True)
class AboveHull:
    """A crystal against the hull at its composition.

    Attributes:
      energy: eV/atom above the hull; negative below it.
      decomposition: reduced formula (pymatgen's, e.g. "O2") -> share of the atoms, of the phases
        that the composition separates into on the hull; the shares add up to 1.
      compounds_only: none of these phases is an element. Never true of a crystal of one element.
    """

    energy: float
    decomposition: Mapping[str, float]
    compounds_only: bool


class Hull:
    """The hull of E known phases, of which the lowest of each composition counts."""

    def __init__(self, phases: Iterable[tuple[ReducedComposition, float]]) -> None:
        lowest: dict[ReducedComposition, float] = {
            ((number, 1),): 0.0 for number in range(1, len(SYMBOLS))
        }
        for composition, energy in phases:
            lowest[composition] = min(energy, lowest.get(composition, math.inf))
        self._compositions = list(lowest)
        self._energies = np.array(list(lowest.values()))  # [E]
        # [E, Z] share of each element in the atoms of a phase.
        self._fractions = np.zeros((len(lowest), len(SYMBOLS)))
        for row, composition in enumerate(lowest):
            numbers, counts = np.transpose(composition)
            self._fractions[row, numbers] = counts / counts.sum()
        self._num_elements = np.count_nonzero(self._fractions, axis=1)

    def above(
        self,
        atomic_numbers: Iterable[int],
        formation_energy_per_atom: float,
        leave_out_own_formula: bool = False,
    ) -> AboveHull | None:
        """Energy above the hull and the products of decomposition.

        Args:
          atomic_numbers: [N] of the crystal.
          formation_energy_per_atom: eV, relative to the same elements as those of the hull.
          leave_out_own_formula: compare with other formulas only, as for a crystal that nobody
            knows: the control that shows how complete the hull is. An element stays at 0.

        Returns:
          None for an energy that is not finite.
        """
        if not math.isfinite(formation_energy_per_atom):
            return None
        own = reduced_composition(atomic_numbers)
        elements, counts = np.transpose(own)
        present = np.count_nonzero(self._fractions[:, elements], axis=1)
        rows = np.flatnonzero(present == self._num_elements)
        energies = self._energies[rows]
        if leave_out_own_formula:
            is_own = np.array([self._compositions[row] == own for row in rows])
            energies = np.where(is_own, 0.0 if len(own) == 1 else np.inf, energies)
            rows, energies = rows[energies < np.inf], energies[energies < np.inf]
        # Minimise the energy over the share of the atoms in each phase, >= 0. The simplex method
        # ends in a vertex, so there are at most as many phases as elements.
        result = linprog(
            energies,
            A_eq=self._fractions[np.ix_(rows, elements)].T,
            b_eq=counts / counts.sum(),
            method="highs-ds",
        )
        products = [
            (self._compositions[row], float(share))
            for row, share in zip(rows, result.x, strict=True)
            if share > _NO_ATOMS
        ]
        return AboveHull(
            energy=float(formation_energy_per_atom - result.fun),
            decomposition={_formula(phase): share for phase, share in products},
            compounds_only=all(len(phase) > 1 for phase, _ in products),
        )


def _formula(composition: ReducedComposition) -> str:
    return reduced_formula([number for number, count in composition for _ in range(count)])


def from_crystals(crystals: Iterable[Iterable[int]], formation_energies: Iterable[float]) -> Hull:
    """The hull of crystals, for instance of a training set and its labels.

    Args:
      crystals: [N] atomic numbers of each.
      formation_energies: eV/atom; see `References.of_labels` for those of a known data set.
    """
    energies = map(float, formation_energies)
    return Hull(zip(map(reduced_composition, crystals), energies, strict=True))


def from_formulas(formulas: Iterable[str], formation_energies: Iterable[float]) -> Hull:
    """The hull of phases such as "BaTiO3" and their formation energies in eV/atom.

    Raises:
      UserError: a formula cannot be read.
    """
    try:
        phases = [
            (parse_formula(formula), float(energy))
            for formula, energy in zip(formulas, formation_energies, strict=True)
        ]
    except ValueError as error:
        raise UserError(f"The hull cannot be made: {error}.") from error
    return Hull(phases)


def read_csv(path: Path) -> Hull:
    """The hull of a csv or csv.gz with columns `formula` and `formation_energy_per_atom` (eV).

    Raises:
      UserError: the file cannot be read, lacks a column, or a row is wrong.
    """
    header, rows = read_rows(path, ["formation_energy_per_atom"])
    for name in COLUMNS:
        if name not in header:
            raise UserError(
                f"{path} has no column '{name}'; its columns are {join_names(header)}"
                f"{did_you_mean(name, header)}"
            )
    phases = []
    for number, row in enumerate(rows, start=1):
        formula, energy = (row.get(name) or "" for name in COLUMNS)
        try:
            if None in row:
                raise ValueError("it has more cells than the header has columns")
            phases.append((parse_formula(formula), _parse_energy(energy)))
        except ValueError as error:
            raise UserError(f"{path} row {number}: {error}.") from error
    if not phases:
        raise UserError(f"{path} has a header but no rows: a hull needs known phases.")
    return Hull(phases)


def _parse_energy(text: str) -> float:
    """Raises ValueError with a reason."""
    try:
        energy = float(text)
    except ValueError:
        energy = math.nan
    if not abs(energy) <= _MAX_FORMATION_ENERGY:
        raise ValueError(
            f"'{printable(text)}' is not a formation energy in eV/atom, a number within "
            f"{-_MAX_FORMATION_ENERGY:g} .. {_MAX_FORMATION_ENERGY:g}"
        )
    return energy


def from_materials_project(chemical_systems: Iterable[Iterable[int]]) -> Hull:
    """The hull of the Materials Project's phases, see `materials_project.known_phases`.

    Args:
      chemical_systems: atomic numbers of each system, e.g. those of the crystals to compare.

    Raises:
      UserError: the Materials Project cannot be asked.
    """
    return from_formulas(*known_phases(chemical_systems))
