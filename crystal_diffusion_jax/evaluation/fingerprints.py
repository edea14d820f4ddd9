"""Fingerprints for coverage, made by matminer, which only this file needs (extra `coverage`)."""

import ast
import importlib.util
import warnings
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

import joblib
import numpy as np
from pymatgen.core import Structure
from tqdm import tqdm

from crystal_diffusion_jax.data.download import open_url
from crystal_diffusion_jax.data.locate import cache_folder
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation.coverage import Fingerprint
from crystal_diffusion_jax.files import replace_text

# Means and standard deviations that CDVAE standardises the 132 Magpie numbers with. They belong to
# the definition of the metric. A full commit, so that what is behind the address never changes.
_SCALER_URL = (
    "https://raw.githubusercontent.com/txie-93/cdvae/"
    "f857f598d6f6cca5dc1ea0582d228f12dcc2c2ea/cdvae/common/constants.py"
)
_NUM_MAGPIE = 132
_CHUNK = 20


def require_matminer() -> None:
    """Checks, before any long work, that coverage can be computed.

    Raises:
      UserError: matminer is not installed.
    """
    if importlib.util.find_spec("matminer") is None:
        raise UserError(
            "--coverage needs matminer, which is not installed: run `pip install .[coverage]` in "
            "the repository, or leave --coverage out."
        )


def fingerprints(
    structures: Sequence[Structure | None],
    means: np.ndarray,
    stds: np.ndarray,
    progress: bool = True,
) -> list[Fingerprint | None]:
    """Fingerprints of S crystals, on all cores.

    Args:
      structures: S crystals, None where there is none.
      means: [132] of `load_scaler`.
      stds: [132] likewise.
      progress: show a progress bar on stderr.

    Returns:
      S fingerprints, None where there is no crystal or matminer fails on one of its sites.
    """
    chunks = [structures[i : i + _CHUNK] for i in range(0, len(structures), _CHUNK)]
    parallel = joblib.Parallel(n_jobs=-1, return_as="generator")
    results = parallel(joblib.delayed(_fingerprint_all)(chunk) for chunk in chunks)
    made = [
        item
        for items in tqdm(results, "fingerprints", total=len(chunks), disable=not progress)
        for item in items
    ]
    return [
        # Magpie has no value for some properties of some elements; CDVAE then takes the mean.
        item and Fingerprint(item.structure, np.nan_to_num((item.composition - means) / stds))
        for item in made
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
                text = response.read().decode("utf-8")
            _parse_scaler(text)
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(path, text)
        except (OSError, HTTPException, ValueError) as error:
            raise UserError(f"{_SCALER_URL} could not be fetched ({error}): {by_hand}.") from error
    return _read_scaler(path, by_hand)


def _read_scaler(path: Path, by_hand: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        return _parse_scaler(path.read_text(encoding="utf-8"))
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
    if not (np.isfinite(means).all() and (stds > 0).all()):
        raise ValueError("its numbers are not means and standard deviations")
    return means, stds


def _fingerprint_all(structures: Sequence[Structure | None]) -> list[Fingerprint | None]:
    """Fingerprints with composition numbers as matminer gives them."""
    # Imported here: matminer is an extra, and slow to import.
    from matminer.featurizers.composition.composite import ElementProperty
    from matminer.featurizers.site.fingerprint import CrystalNNFingerprint

    results: list[Fingerprint | None] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        magpie = ElementProperty.from_preset("magpie")
        sites = CrystalNNFingerprint.from_preset("ops")
        for structure in structures:
            try:
                if structure is None:
                    raise ValueError("no crystal")
                composition = np.array(magpie.featurize(structure.composition), dtype=np.float64)
                per_site = [sites.featurize(structure, i) for i in range(len(structure))]
                results.append(Fingerprint(np.mean(per_site, axis=0), composition))
            except Exception:  # whatever matminer raises, CDVAE counts the crystal as not covered
                results.append(None)
    return results
