"""Fingerprints for coverage by matminer (extra `coverage`)."""

import ast
import functools
import hashlib
import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation.coverage import Fingerprint
from crystal_diffusion_jax.runtime.downloads import fetch
from crystal_diffusion_jax.runtime.files import read_text
from crystal_diffusion_jax.runtime.user_cache import cache_folder
from crystal_diffusion_jax.runtime.workers import TaskFailure, map_in_processes

# Means and standard deviations with which CDVAE standardises the 132 Magpie numbers: part of the
# definition of the metric. The address names a commit, so its content never changes.
_SCALER_URL = (
    "https://raw.githubusercontent.com/txie-93/cdvae/"
    "f857f598d6f6cca5dc1ea0582d228f12dcc2c2ea/cdvae/common/constants.py"
)
# Of the means followed by the standard deviations, as little-endian float64.
_SCALER_SHA256 = "396a806b2002e86ddce18ab2b50445d48f174c282a7f496f3fd9a81d02426a04"
_MAX_SCALER_BYTES = 64 * 1024  # the file has 6 KiB
TIME_LIMIT = 120.0  # seconds for one structure


def require_matminer() -> None:
    """Checks, before any long work, that coverage can be computed.

    Raises:
      UserError: matminer is not installed.
    """
    if importlib.util.find_spec("matminer") is None:
        raise UserError(
            "--coverage needs matminer, which is not installed: run `pip install '.[coverage]'` "
            "in the repository, or leave --coverage out."
        )


def fingerprints(
    structures: Sequence[Structure | None],
    means: np.ndarray,
    stds: np.ndarray,
    progress: bool = True,
) -> list[Fingerprint | str]:
    """Fingerprints of S crystals, on all cores.

    Args:
      structures: S crystals, None where there is none.
      means: [132] of `load_scaler`.
      stds: [132] of `load_scaler`.
      progress: show a progress bar on stderr.

    Returns:
      S fingerprints, or the reason why there is none: no crystal, or matminer fails at one of its
      sites or takes too long.
    """
    found: list[Fingerprint | str] = []
    for raw in map_in_processes(
        raw_fingerprint, structures, "fingerprint", TIME_LIMIT, progress=progress
    ):
        if isinstance(raw, TaskFailure):
            found.append(f"no fingerprint: {raw.reason}")
        elif isinstance(raw, str):
            found.append(raw)
        else:
            # Magpie lacks some properties of some elements; CDVAE then takes the mean.
            composition = np.nan_to_num((raw.composition - means) / stds)
            found.append(Fingerprint(raw.structure, composition))
    return found


def raw_fingerprint(structure: Structure | None) -> Fingerprint | str:
    """Fingerprint with the composition not yet standardised, or why there is none."""
    if structure is None:
        return "no crystal"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            magpie, sites = _featurizers()
            # Wrapped, because pymatgen takes very long with coordinates far outside the cell.
            inside = Structure.from_sites(structure, to_unit_cell=True)
            composition = np.array(magpie.featurize(inside.composition), dtype=np.float64)
            per_site = [sites.featurize(inside, i) for i in range(len(inside))]
            return Fingerprint(np.mean(per_site, axis=0), composition)
    except Exception as error:  # whatever matminer raises, CDVAE counts the crystal as not covered
        return f"no fingerprint: {type(error).__name__}"


@functools.cache
def _featurizers() -> tuple[Any, Any]:
    """matminer's featurizers of a composition and of a site, which take seconds to make."""
    # Imported here: matminer is an extra, and slow to import.
    from matminer.featurizers.composition.composite import ElementProperty
    from matminer.featurizers.site.fingerprint import CrystalNNFingerprint

    return ElementProperty.from_preset("magpie"), CrystalNNFingerprint.from_preset("ops")


def load_scaler() -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations of the Magpie numbers, [132] each; downloaded at first use.

    Raises:
      UserError: they are not in the cache and cannot be downloaded, or are not CDVAE's.
    """
    path = fetch(_SCALER_URL, None, cache_folder() / "cdvae" / "constants.py", progress=False)
    try:
        return _parse_scaler(read_text(path, _MAX_SCALER_BYTES))
    except (OSError, ValueError, KeyError, TypeError, SyntaxError) as error:
        path.unlink(missing_ok=True)
        raise UserError(
            f"{path} was not CDVAE's file and is deleted ({error!r}): run this again, or download "
            f"{_SCALER_URL} by hand and save it as {path}."
        ) from error


def _parse_scaler(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads the two lists of numbers out of the Python file, without running it."""
    values = {
        ast.unparse(node.targets[0]): ast.literal_eval(node.value)
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign)
    }
    scaler = np.array([values["CompScalerMeans"], values["CompScalerStds"]], dtype="<f8")
    if hashlib.sha256(scaler.tobytes()).hexdigest() != _SCALER_SHA256:
        raise ValueError("the sha256 of its numbers differs")
    means, stds = scaler
    return means, stds
