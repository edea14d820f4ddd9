"""Each crystal on the page after relaxation: what it gained, and its atoms as arrays."""

import dataclasses
import itertools
import math
import re
from collections.abc import Sequence

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.potentials.relaxation import RelaxedCrystal
from crystal_diffusion_jax.potentials.relaxed_database import UNFINISHED
from crystal_diffusion_jax.report.entries import cell_of_first_atom, drawn_atoms, space_group
from crystal_diffusion_jax.structures.reading import Inputs

_ELEMENT = re.compile(r"[A-Z][a-z]?\d*")


@dataclasses.dataclass(frozen=True)
class RelaxedAtoms:
    """A relaxed structure, ready for JSON; the page makes its CIF from the same numbers.

    Attributes:
      space_group: symbol and number, within the tolerance of symmetry.
      lattice: [3][3] cell vectors as rows, Angstrom.
      symbols: element of each atom that is drawn, those of the cell before their images.
      frac_coords: their fractional coordinates relative to the first atom.
    """

    space_group: str
    lattice: list[list[float]]
    symbols: list[str]
    frac_coords: list[list[float]]


@dataclasses.dataclass(frozen=True)
class RelaxedEntry:
    """What relaxing one crystal gave, ready for JSON; None where unknown.

    Attributes:
      failure: why it could not be relaxed, "" if it could.
      energy_gain: initial minus final energy, eV/atom.
      rmsd: of the relaxed from the generated structure, Angstrom; None too if they do not match.
      volume_change: final over initial volume, minus 1.
      steps: taken.
      converged: to the forces that were asked for.
      formation_energy_per_atom: of the relaxed crystal, eV.
      energy_above_hull: eV/atom.
      decomposition: the phases on the hull, "" if unknown.
      compounds_only: none of these is an element.
      atoms: the relaxed structure, None after a failure.
    """

    failure: str
    energy_gain: float | None
    rmsd: float | None
    volume_change: float | None
    steps: int
    converged: bool
    formation_energy_per_atom: float | None
    energy_above_hull: float | None
    decomposition: str
    compounds_only: bool
    atoms: RelaxedAtoms | None


def relaxed_entries(
    inputs: Inputs, relaxed: Sequence[RelaxedCrystal], symprec: float
) -> list[RelaxedEntry | None]:
    """One entry per readable crystal, in order; None for those that are not relaxed yet.

    Args:
      inputs: n crystals.
      relaxed: what relaxing the first of them gave.
      symprec: tolerance of symmetry in Angstrom.

    Raises:
      UserError: a relaxed crystal has other atoms than the generated one.
    """
    found: list[RelaxedEntry | None] = []
    for initial, crystal in itertools.zip_longest(inputs.structures, relaxed):
        if initial is None:
            continue
        if crystal is None or crystal.relaxation.failure == UNFINISHED:
            found.append(None)
            continue
        final = crystal.relaxation.structure
        if final is not None and final.atomic_numbers != initial.atomic_numbers:
            raise UserError(
                f"The relaxed crystal of {crystal.name} has other atoms than the generated one: "
                "relax these crystals again."
            )
        found.append(
            RelaxedEntry(
                failure=crystal.relaxation.failure or "",
                energy_gain=_rounded(crystal.energy_gain),
                rmsd=_rounded(crystal.rmsd),
                volume_change=_rounded(crystal.volume_change),
                steps=crystal.relaxation.steps,
                converged=crystal.relaxation.converged,
                formation_energy_per_atom=_rounded(crystal.formation_energy_per_atom),
                energy_above_hull=_rounded(crystal.energy_above_hull),
                decomposition=crystal.decomposition,
                compounds_only=_compounds_only(crystal.decomposition),
                atoms=None if final is None else relaxed_atoms(initial, final, symprec),
            )
        )
    return found


def _compounds_only(decomposition: str) -> bool:
    """Whether phases such as "F2 (0.200) + ScF3 (0.800)" are all compounds; False for none."""
    formulas = [phase.split(" ")[0] for phase in decomposition.split(" + ")]
    return bool(decomposition) and not any(map(_ELEMENT.fullmatch, formulas))


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def relaxed_atoms(initial: Structure, relaxed: Structure, symprec: float) -> RelaxedAtoms:
    """The relaxed structure with each atom next to where it started.

    Args:
      initial: the generated crystal.
      relaxed: the same atoms in the same order.
      symprec: tolerance of symmetry in Angstrom.
    """
    start = cell_of_first_atom(initial)
    step = cell_of_first_atom(relaxed) - start
    frac_coords = start + step - np.round(step)
    atom, shift = drawn_atoms(frac_coords)
    order = np.argsort(shift.any(axis=-1), kind="stable")
    return RelaxedAtoms(
        space_group=space_group(relaxed, symprec),
        lattice=np.round(relaxed.lattice.matrix, 5).tolist(),
        symbols=[relaxed[i].specie.symbol for i in atom[order]],
        frac_coords=np.round((frac_coords[atom] + shift)[order], 5).tolist(),
    )
