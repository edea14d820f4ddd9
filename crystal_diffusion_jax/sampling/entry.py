"""One generated crystal as the output folder holds it: entry of the record, frame, CIF."""

import math
from typing import Any

import numpy as np

from crystal_diffusion_jax.request import SampleSettings
from crystal_diffusion_jax.structures.cif_writer import to_cif
from crystal_diffusion_jax.structures.compositions import reduced_formula
from crystal_diffusion_jax.structures.conversion import (
    cell_defect,
    minimum_distance,
    restore_structure,
    to_extxyz,
    to_structure,
)

# What samples.json says of a written crystal.
Entry = dict[str, Any]


def rejection(
    settings: SampleSettings,
    lattice: np.ndarray,
    frac_coords: np.ndarray,
    atomic_numbers: np.ndarray,
) -> str | None:
    """Why a generated crystal is not written; None when it is.

    Args:
      settings: the request.
      lattice: [3, 3] cell vectors as rows, in Angstrom.
      frac_coords: [N, 3].
      atomic_numbers: [N] int.
    """
    if defect := cell_defect(lattice, frac_coords):
        return defect
    # Each kind of atom that occurs is one of the elements.
    wanted = len(settings.elements or ()) if settings.chemical_system else 0
    if len(set(atomic_numbers.tolist())) < wanted:
        return "lacks an element of the chemical system"
    return None


def make_entry(
    index: int,
    lattice: np.ndarray,
    frac_coords: np.ndarray,
    atomic_numbers: np.ndarray,
    target: dict[str, float],
) -> Entry:
    """The crystal in canonical form and full precision.

    Args:
      index: its place in the request.
      lattice: [3, 3] cell vectors as rows, in Angstrom, without a `cell_defect`.
      frac_coords: [N, 3].
      atomic_numbers: [N] int.
      target: requested value of each property asked for.
    """
    structure = to_structure(lattice, frac_coords, atomic_numbers)
    distance = minimum_distance(structure)
    return {
        "index": index,
        "formula": reduced_formula(atomic_numbers),
        "target": target,
        "lattice": structure.lattice.matrix.tolist(),
        "frac_coords": structure.frac_coords.tolist(),
        "atomic_numbers": [int(number) for number in atomic_numbers],
        "species": [element.symbol for element in structure.species],
        "volume": float(structure.volume),
        # JSON has no infinity: a single atom has no neighbour to be near to.
        "min_distance": distance if math.isfinite(distance) else None,
    }


def frame(entry: Entry, settings: SampleSettings) -> str:
    """Its frame of the extended XYZ file, with what was asked for."""
    info = {"index": entry["index"], "formula": entry["formula"], "model": settings.model}
    # Records of earlier versions say it once for all crystals.
    asked = entry.get("target", settings.conditions)
    targets = {f"target_{name}": value for name, value in asked.items()}
    return to_extxyz([_structure(entry)], [info | targets])


def cif_name(entry: Entry) -> str:
    """Name of its CIF, e.g. 00042_BaTiO3.cif."""
    return f"{entry['index']:05d}_{entry['formula']}.cif"


def cif(entry: Entry, settings: SampleSettings) -> str:
    """Text of its CIF."""
    return to_cif(_structure(entry), settings.symprec)


def _structure(entry: Entry) -> Any:
    return restore_structure(
        np.array(entry["lattice"]), np.array(entry["frac_coords"]), entry["atomic_numbers"]
    )
