"""Fingerprints for coverage, made by matminer, which only this file needs (extra `coverage`)."""

import ast
import functools
import hashlib
import importlib.util
import warnings
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.data.download import open_url
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation.coverage import Fingerprint
from crystal_diffusion_jax.runtime.files import read_text, replace_text
from crystal_diffusion_jax.runtime.time_limit import Interrupt, processor_time_limit
from crystal_diffusion_jax.runtime.user_cache import cache_folder
from crystal_diffusion_jax.runtime.workers import in_processes

# Means and standard deviations that CDVAE standardises the 132 Magpie numbers with. They belong to
# the definition of the metric. A full commit, so that what is behind the address never changes.
_SCALER_URL = (
    "https://raw.githubusercontent.com/txie-93/cdvae/"
    "f857f598d6f6cca5dc1ea0582d228f12dcc2c2ea/cdvae/common/constants.py"
)
# Of the means, then the standard deviations, as little-endian float64.
_SCALER_SHA256 = "396a806b2002e86ddce18ab2b50445d48f174c282a7f496f3fd9a81d02426a04"
_MAX_SCALER_BYTES = 64 * 1024  # the file has 6 KiB
_NUM_MAGPIE = 132
# Structures handed to a process at a time.
_CHUNK = 20
TIME_LIMIT = 60.0  # seconds of processor time for one structure


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
    time_limit: float = TIME_LIMIT,
) -> list[Fingerprint | str]:
    """Fingerprints of S crystals, on all cores.

    Args:
      structures: S crystals, None where there is none.
      means: [132] of `load_scaler`.
      stds: [132] likewise.
      progress: show a progress bar on stderr.
      time_limit: seconds of processor time for one crystal.

    Returns:
      S fingerprints; where there is none, because there is no crystal, or matminer fails on one of
      its sites or takes too long, the reason.
    """
    tasks = [(structure, time_limit) for structure in structures]
    return [
        # Magpie has no value for some properties of some elements; CDVAE then takes the mean.
        made
        if isinstance(made, str)
        else Fingerprint(made.structure, np.nan_to_num((made.composition - means) / stds))
        for made in in_processes(_fingerprint, tasks, "fingerprint", _CHUNK, progress)
    ]


def load_scaler() -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations of the Magpie numbers, [132] each; downloaded at first use.

    Raises:
      UserError: they are not here and cannot be downloaded; the message has the way out.
    """
    path = cache_folder() / "cdvae" / "constants.py"
    by_hand = f"download {_SCALER_URL} by hand and save it as {path}"
    if not path.is_file():
        try:
            with open_url(_SCALER_URL) as response:
                text = response.read(_MAX_SCALER_BYTES).decode("utf-8")
            _parse_scaler(text)
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(path, text)
        except (OSError, HTTPException, ValueError) as error:
            raise UserError(f"{_SCALER_URL} could not be fetched ({error}): {by_hand}.") from error
    return _read_scaler(path, by_hand)


def _read_scaler(path: Path, by_hand: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        return _parse_scaler(read_text(path, _MAX_SCALER_BYTES))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it, or {by_hand}.") from error


def _parse_scaler(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads the two lists of numbers out of the Python file, without running it."""
    values = {}
    try:
        statements = ast.parse(text).body
    except SyntaxError as error:
        raise ValueError("it is no Python file") from error
    for node in statements:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values[node.targets[0].id] = np.array(ast.literal_eval(node.value), dtype=np.float64)
    means, stds = values.get("CompScalerMeans"), values.get("CompScalerStds")
    if means is None or stds is None or not means.shape == stds.shape == (_NUM_MAGPIE,):
        raise ValueError(f"it has no two lists of {_NUM_MAGPIE} numbers")
    in_order = np.stack([means, stds]).astype("<f8")
    if hashlib.sha256(in_order.tobytes()).hexdigest() != _SCALER_SHA256:
        raise ValueError("its numbers are not CDVAE's: their sha256 is another")
    return means, stds


@functools.cache
def _featurizers() -> tuple[Any, Any]:
    """matminer's of a composition and of a site; made once a process, as that takes seconds."""
    # Imported here: matminer is an extra, and slow to import.
    from matminer.featurizers.composition.composite import ElementProperty
    from matminer.featurizers.site.fingerprint import CrystalNNFingerprint

    return ElementProperty.from_preset("magpie"), CrystalNNFingerprint.from_preset("ops")


def _fingerprint(structure: Structure | None, time_limit: float) -> Fingerprint | str:
    """The fingerprint with composition numbers as matminer gives them, or why there is none."""
    if structure is None:
        return "no crystal"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            magpie, sites = _featurizers()
            with processor_time_limit(time_limit):
                # Wrapped, as far-away coordinates cost time without end where no signal reaches.
                inside = Structure.from_sites(structure, to_unit_cell=True)
                composition = np.array(magpie.featurize(inside.composition), dtype=np.float64)
                per_site = [sites.featurize(inside, i) for i in range(len(inside))]
                return Fingerprint(np.mean(per_site, axis=0), composition)
    except Interrupt as interrupt:
        return f"fingerprint takes too long: {interrupt.reason}"
    except Exception as error:  # whatever matminer raises, CDVAE counts the crystal as not covered
        return f"no fingerprint of every site: {type(error).__name__}"
