"""Known phases from the Materials Project (Jain et al., APL Mater. 1, 011002 (2013)), online."""

import itertools
import os
from collections.abc import Iterable, Mapping
from typing import Any

from crystal_diffusion_jax.errors import UserError, printable
from crystal_diffusion_jax.structures.compositions import SYMBOLS

# The corrected energies (MP2020) that CHGNet was trained on; not those mixed with r2SCAN.
_THERMO_TYPE = "GGA_GGA+U"
_SYSTEMS_PER_REQUEST = 50
# n elements have 2^n systems; of the compounds of many elements only those of few are asked for.
_MAX_ELEMENTS = 8
_FEW_ELEMENTS = 4


def known_phases(chemical_systems: Iterable[Iterable[int]]) -> tuple[list[str], list[float]]:
    """Compounds in some chemical systems and the systems within them.

    Of systems with more than eight elements only the compounds of up to four of them.

    Args:
      chemical_systems: atomic numbers of each.

    Returns:
      Formulas, and formation energies in eV/atom of GGA and GGA+U calculations.

    Raises:
      UserError: the package mp-api is not installed, there is no key in the environment variable
        MP_API_KEY, or the Materials Project does not answer.
    """
    try:
        from mp_api.client import MPRester
    except ImportError as error:
        raise UserError(
            "The hull of the Materials Project needs the package mp-api: "
            "pip install 'mp-api>=0.45'."
        ) from error
    key = os.environ.get("MP_API_KEY")
    if not key:
        raise UserError(
            "The hull of the Materials Project needs a key: set MP_API_KEY to the one that "
            "https://materialsproject.org/api shows after signing in."
        )
    systems = _systems_within(chemical_systems)
    phases: list[Mapping[str, Any]] = []
    try:
        with MPRester(key, use_document_model=False, mute_progress_bars=True) as client:
            for start in range(0, len(systems), _SYSTEMS_PER_REQUEST):
                phases += client.materials.thermo.search(
                    chemsys=systems[start : start + _SYSTEMS_PER_REQUEST],
                    thermo_types=[_THERMO_TYPE],
                    all_fields=False,
                    fields=["formula_pretty", "formation_energy_per_atom"],
                )
    except Exception as error:  # of the client, the connection or the key
        reason = printable(str(error).replace(key, "(the key)"), 200)
        raise UserError(
            f"The Materials Project does not answer ({reason}): check MP_API_KEY and the "
            "connection."
        ) from error
    formulas = [phase["formula_pretty"] for phase in phases]
    return formulas, [phase["formation_energy_per_atom"] for phase in phases]


def _systems_within(chemical_systems: Iterable[Iterable[int]]) -> list[str]:
    """Names such as "Ba-O" of all systems of two or more elements within the given ones."""
    found: set[tuple[int, ...]] = set()
    for elements in map(sorted, map(set, chemical_systems)):
        largest = len(elements) if len(elements) <= _MAX_ELEMENTS else _FEW_ELEMENTS
        for size in range(2, largest + 1):
            found.update(itertools.combinations(elements, size))
    return ["-".join(sorted(SYMBOLS[number] for number in system)) for system in sorted(found)]
