"""The built-in data set "abx3": idealised cubic perovskites, for trying things out offline.

Ions are hard spheres with Shannon's ionic radii (R. D. Shannon, Acta Cryst. A 32 (1976) 751, as
tabulated in pymatgen). The cell follows from touching B and X ions, the property is the
Goldschmidt tolerance factor; both are exact functions of the composition. Most of the crystals are
not stable compounds.
"""

import dataclasses
import functools
import itertools
import math

import numpy as np
from pymatgen.core import Element

from crystal_diffusion_jax.data.arrays import CrystalDataset

# The chalcogens and halogens with a 6-coordinate anion radius in Shannon's table, except Te, which
# is more often a cation. X has six neighbours in a perovskite: 2 B, 4 A.
_ANION_CHARGE = {"O": -2, "F": -1, "S": -2, "Cl": -1, "Se": -2, "Br": -1, "I": -1}
# The A site has 12 neighbours. Shannon lists only 17 elements there; most rare earths, the
# classic A cations, end at 8 or 9 neighbours, so the highest coordination listed stands in.
_A_COORDINATIONS = ("XII", "XI", "X", "IX", "VIII")
_B_COORDINATIONS = ("VI",)
_X_COORDINATIONS = ("VI",)

_HEAVIEST_ELEMENT = 92  # uranium
# 0.75: lower edge of the oxide perovskites (C. Li, K. C. K. Soh, P. Wu, J. Alloys Compd. 372
# (2004) 40). 1.10: upper edge of the halide perovskites, 1.107 (C. Li et al., Acta Cryst. B 64
# (2008) 702).
_TOLERANCE_FACTOR_RANGE = (0.75, 1.10)
# 0.38: hard spheres would ask for sqrt(2) - 1 = 0.414, where the anions around B begin to touch
# each other, but LaAlO3 (0.382) and BaHfS3 (0.386) are perovskites. 0.90: upper edge of the
# halides, 0.895 (Li 2008, above).
_OCTAHEDRAL_FACTOR_RANGE = (0.38, 0.90)

_SITES = np.array(
    [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]
)


@dataclasses.dataclass(frozen=True)
class PerovskiteIons:
    """Charges and Shannon's ionic radii (in Angstrom) of the ions of one ABX3."""

    charge_a: int
    charge_b: int
    charge_x: int
    radius_a: float
    radius_b: float
    radius_x: float

    @property
    def tolerance_factor(self) -> float:
        """Goldschmidt's t = (r_A + r_X) / (sqrt(2) (r_B + r_X)); 1 when all ions touch."""
        return (self.radius_a + self.radius_x) / (math.sqrt(2.0) * (self.radius_b + self.radius_x))

    @property
    def octahedral_factor(self) -> float:
        """r_B / r_X."""
        return self.radius_b / self.radius_x

    @property
    def cell_constant(self) -> float:
        """Cubic a = 2 (r_B + r_X) in Angstrom, as X, B, X touch along the cell edge."""
        return 2.0 * (self.radius_b + self.radius_x)


def assign_ions(a: int, b: int, x: int) -> PerovskiteIons | None:
    """The charge-neutral ions of the ordered composition ABX3.

    A and B may have any positive charge that pymatgen lists as common or as found in the ICSD and
    for which Shannon has a radius at their site; X has its one negative charge. Of several neutral
    assignments the one with the most ions in a common oxidation state is taken, then the one with
    the lowest charge on A, the larger site: CeFeO3 is Ce3+ Fe3+, not Ce4+ Fe2+. Radii are those of
    high spin where Shannon distinguishes, as for the weak-field oxide and halide ligands.

    Args:
      a: atomic number of the 12-coordinate cation.
      b: atomic number of the 6-coordinate cation.
      x: atomic number of the anion.

    Returns:
      The ions, or None if there is no neutral assignment (also when A and B are one element,
      or X is none of O, F, S, Cl, Se, Br, I).
    """
    charge_x = _ANION_CHARGE.get(Element.from_Z(x).symbol)
    if charge_x is None or a == b:
        return None
    radius_x = _shannon_radius(x, charge_x, _X_COORDINATIONS)
    assert radius_x is not None  # each anion in the table has one
    candidates = []
    for charge_a, (radius_a, common_a) in _cations(a, _A_COORDINATIONS).items():
        charge_b = -3 * charge_x - charge_a
        if charge_b not in (cations_b := _cations(b, _B_COORDINATIONS)):
            continue
        radius_b, common_b = cations_b[charge_b]
        ions = PerovskiteIons(charge_a, charge_b, charge_x, radius_a, radius_b, radius_x)
        candidates.append((-(common_a + common_b), charge_a, ions))
    # The first two entries differ between any two candidates, so ions are never compared.
    return min(candidates)[2] if candidates else None


def abx3_dataset() -> CrystalDataset:
    """All charge-neutral cubic ABX3 with r_A > r_B and plausible tolerance and octahedral factors.

    A is at the corner, B at the centre and X at the face centres of the cubic cell. Crystals are
    ordered by the atomic numbers of A, B, X and named like "abx3-BaTiO3"; the property is
    "tolerance_factor", without unit.
    """
    compositions, constants, tolerance_factors, names = [], [], [], []
    anions = sorted(Element(symbol).Z for symbol in _ANION_CHARGE)
    elements = range(1, _HEAVIEST_ELEMENT + 1)
    a_elements = [z for z in elements if _cations(z, _A_COORDINATIONS)]
    b_elements = [z for z in elements if _cations(z, _B_COORDINATIONS)]
    for a, b, x in itertools.product(a_elements, b_elements, anions):
        ions = assign_ions(a, b, x)
        if ions is None or not _is_plausible(ions):
            continue
        compositions.append((a, b, x))
        constants.append(ions.cell_constant)
        tolerance_factors.append(ions.tolerance_factor)
        symbol_a, symbol_b, symbol_x = (Element.from_Z(z).symbol for z in (a, b, x))
        names.append(f"abx3-{symbol_a}{symbol_b}{symbol_x}3")

    count = len(compositions)
    return CrystalDataset(
        lattice=np.array(constants)[:, None, None] * np.eye(3),
        num_atoms=np.full(count, len(_SITES), dtype=np.int64),
        frac_coords=np.tile(_SITES, (count, 1)),
        atomic_numbers=np.array([(a, b, x, x, x) for a, b, x in compositions], np.int64).ravel(),
        properties=np.array(tolerance_factors)[:, None],
        property_names=("tolerance_factor",),
        material_ids=np.array(names),
    )


def _is_plausible(ions: PerovskiteIons) -> bool:
    t_min, t_max = _TOLERANCE_FACTOR_RANGE
    mu_min, mu_max = _OCTAHEDRAL_FACTOR_RANGE
    return (
        ions.radius_a > ions.radius_b
        and t_min <= ions.tolerance_factor <= t_max
        and mu_min <= ions.octahedral_factor <= mu_max
    )


@functools.cache
def _cations(atomic_number: int, coordinations: tuple[str, ...]) -> dict[int, tuple[float, bool]]:
    """Radius and whether the charge is a common one, by positive charge, for one kind of site.

    The anion elements are never cations here, which also keeps A, B and X apart.
    """
    element = Element.from_Z(atomic_number)
    if element.symbol in _ANION_CHARGE:
        return {}
    common = {int(charge) for charge in element.common_oxidation_states}
    cations = {}
    for charge in sorted(common | {int(charge) for charge in element.icsd_oxidation_states}):
        radius = _shannon_radius(atomic_number, charge, coordinations)
        if charge > 0 and radius is not None:
            cations[charge] = (radius, charge in common)
    return cations


def _shannon_radius(
    atomic_number: int, charge: int, coordinations: tuple[str, ...]
) -> float | None:
    """Ionic radius in Angstrom in the first coordination that Shannon lists, high spin if given."""
    # Read from the table, since Species.get_shannon_radius wants the spin known beforehand.
    by_charge = Element.from_Z(atomic_number).data.get("Shannon radii") or {}
    by_coordination = by_charge.get(str(charge), {})
    for coordination in coordinations:
        if coordination in by_coordination:
            by_spin = by_coordination[coordination]
            entry = by_spin.get("High Spin") or next(iter(by_spin.values()))
            return float(entry["ionic_radius"])
    return None
