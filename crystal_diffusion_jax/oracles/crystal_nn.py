"""Neighbours of the atoms by pymatgen's CrystalNN, many times faster.

An atom's neighbours are a shell of the atoms behind the faces of its Voronoi cell: those with the
largest solid angles. CrystalNN weighs the shells by a semicircle, see `_shell`; here without its
factors for distances and electronegativities. Few atoms are left to pymatgen itself (18 of the
22,406 in the test splits): those whose cell is open within 7 Angstrom, and all in crystals with
thousands of atoms in that radius.

Source: Pan et al., doi:10.1021/acs.inorgchem.0c02996, and pymatgen.core.local_env.
"""

import functools
import math
import warnings
from typing import Any

import numpy as np
from jaxtyping import Float64
from pymatgen.core import Structure
from pymatgen.core.local_env import CrystalNN

from crystal_diffusion_jax.oracles.voronoi import (
    SEARCH_RADIUS,
    Around,
    Faces,
    faces_as_pymatgen,
    generic_faces,
    spheres,
)

# Atoms around a site that CrystalNN may have to search. Diamond has 250 within its 7 Angstrom;
# only cells of a few Angstrom^3, and thin ones whose search radius is doubled several times, have
# more than this. Measured without the limit for five atoms: 4 s in 1 Angstrom^3, 32 s in 0.1
# Angstrom^3, minutes in 3 x 3 x 1000 Angstrom.
MAX_NEIGHBORS = 4_000
# Translations times atoms that pymatgen lays out to find them.
_MAX_CANDIDATES = 200_000

# Steps of the rounded weights, and how far from the middle of two a weight must be that is not
# computed to the last bit, in steps.
_STEPS = 1000
_MIN_CLEARANCE = 1e-5


class SearchTooLarge(BaseException):
    """A BaseException, as CrystalNN catches some exceptions and goes on."""


class BoundedStructure(Structure):
    """A structure that refuses to list far too many atoms in a sphere."""

    def get_sites_in_sphere(self, pt: Any, r: Any, *args: Any, **kwargs: Any) -> Any:
        """As that of pymatgen.

        Raises:
          SearchTooLarge: over the limits.
        """
        if self.num_candidates(r) > _MAX_CANDIDATES:
            raise SearchTooLarge(
                f"too dense or too thin a cell: over {_MAX_CANDIDATES} atoms to search for "
                f"those within {r:.0f} A"
            )
        sites = super().get_sites_in_sphere(pt, r, *args, **kwargs)
        if len(sites) > MAX_NEIGHBORS:
            raise SearchTooLarge(
                f"too dense or too thin a cell: over {MAX_NEIGHBORS} atoms within {r:.0f} A"
            )
        return sites

    def num_candidates(self, radius: float) -> int:
        """Translations times atoms."""
        spacings = self.lattice.reciprocal_lattice_crystallographic.lengths
        return len(self) * math.prod(2 * math.ceil(radius * inverse) + 1 for inverse in spacings)


def neighbors(structure: BoundedStructure) -> list[Around]:
    """Neighbours of each atom.

    Args:
      structure: with fractional coordinates in [0, 1], which the images refer to.

    Raises:
      SearchTooLarge: it would take minutes.
      MemoryError: out of memory.
      Exception: that of pymatgen or qhull, which fail in many ways on impossible crystals.
    """
    sites = range(len(structure))
    if structure.num_candidates(SEARCH_RADIUS) > _MAX_CANDIDATES:
        return [by_pymatgen(structure, site) for site in sites]
    around = spheres(structure.lattice.matrix, structure.frac_coords)
    if max(len(sphere.distance) for sphere in around) >= MAX_NEIGHBORS:
        return [by_pymatgen(structure, site) for site in sites]
    return [
        _shell(generic_faces(around[site]), _MIN_CLEARANCE)
        or _shell(faces_as_pymatgen(structure, site))
        or by_pymatgen(structure, site)
        for site in sites
    ]


def _shell(faces: Faces | None, clearance: float = 0.0) -> Around | None:
    """The shell of neighbours with the largest score.

    The weight of a neighbour is its share of the largest solid angle, rounded to three digits. A
    shell is all neighbours of some weight w or more, and its score is the area of a quarter of the
    unit circle between w and the next smaller weight, or zero.

    Args:
      faces: at least one; None leads to None.
      clearance: steps of rounding; a weight this close to the middle of two leads to None.
    """
    if faces is None:
        return None
    weight = faces.angle / faces.angle.max()
    remainder = weight * _STEPS % 1.0
    if (np.abs(remainder - 0.5) < clearance).any():
        return None
    steps = np.rint(np.round(weight, 3) * _STEPS).astype(np.int64)
    distinct = np.unique(steps[steps > 0])[::-1]
    areas = _areas()[distinct]
    scores = (areas - np.append(areas[1:], 0.0)) / (0.25 * math.pi)
    chosen = steps >= distinct[np.argmax(scores)]  # of equal scores, the smallest shell's
    return Around(faces.around.atom[chosen], faces.around.image[chosen])


@functools.cache
def _areas() -> Float64[np.ndarray, " weights"]:
    """Area of a quarter of the unit circle from 0 to each weight, rounded as by pymatgen."""
    areas = []
    for weight in (np.arange(_STEPS) / _STEPS).tolist():
        height = math.sqrt(1 - weight**2)
        areas.append(0.5 * (weight * height + math.atan(weight / height)))
    return np.array([*areas, 0.25 * math.pi])


def by_pymatgen(structure: BoundedStructure, site: int) -> Around:
    """Neighbours of one atom, found by pymatgen."""
    finder = CrystalNN(distance_cutoffs=None, x_diff_weight=-1, porous_adjustment=False)
    with warnings.catch_warnings():
        # pymatgen warns of each element without an electronegativity, which is not used.
        warnings.simplefilter("ignore")
        found = finder.get_nn_info(structure, site)
    index = np.array([each["site_index"] for each in found], dtype=np.int64)
    image = np.array([each["image"] for each in found], dtype=np.int64).reshape(-1, 3)
    return Around(index, image)
