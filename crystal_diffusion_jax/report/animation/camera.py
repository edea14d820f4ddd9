"""From where the scenes are seen, and how large and in which colours: for GIF and HTML alike."""

from collections.abc import Sequence

import numpy as np
from ase.data import covalent_radii
from ase.data.colors import jmol_colors

from crystal_diffusion_jax.report.animation.scene import Scene

_ELEVATION = np.radians(14.0)
# Angles about the vertical at the first and the last frame: cells end seen mostly from the front.
_FIRST_AZIMUTH, _LAST_AZIMUTH = np.radians(-50.0), np.radians(22.0)
# Frames on either side that the zoom looks at, so that it moves slowly.
_ZOOM_WINDOW = 8
BOND_RADIUS = 0.11  # Angstrom
EDGE_COLOUR = np.array([0.35, 0.37, 0.42])
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def caption(scene: Scene) -> tuple[str, str]:
    """Diffusion time and formula, e.g. ("t = 0", "SrVO₃")."""
    return f"t = {scene.t}", scene.formula.translate(_SUBSCRIPTS)


def ball_radii(atomic_numbers: np.ndarray) -> np.ndarray:
    """[M] radii to draw atoms with, in Angstrom: sizes differ less than the atoms' own do."""
    return np.asarray(0.16 + 0.27 * covalent_radii[atomic_numbers])


def colours(atomic_numbers: np.ndarray) -> np.ndarray:
    """[M, 3] Jmol's colours of the elements, 0 to 1, none too pale for a white background."""
    pale = jmol_colors[atomic_numbers]
    luminance = pale @ np.array([0.3, 0.59, 0.11])
    return np.asarray(pale * np.minimum(1.0, 0.84 / luminance)[:, None])


def views(num: int) -> np.ndarray:
    """[num, 3, 3] rotations, `positions @ view` has x to the right, y up, z towards the viewer."""
    # Fast at first, slow at the end.
    progress = np.sin(np.linspace(0, np.pi / 2, num))
    azimuth = _FIRST_AZIMUTH + (_LAST_AZIMUTH - _FIRST_AZIMUTH) * progress
    sin, cos, zero, one = np.sin(azimuth), np.cos(azimuth), np.zeros(num), np.ones(num)
    # Columns: right, up, towards the viewer, before the camera is raised.
    turned = np.stack([cos, zero, sin, -sin, zero, cos, zero, one, zero], axis=-1)
    turned = turned.reshape(num, 3, 3) * np.array([1, 1, -1])
    sin_up, cos_up = np.sin(_ELEVATION), np.cos(_ELEVATION)
    raised = np.array([[1, 0, 0], [0, cos_up, sin_up], [0, -sin_up, cos_up]])
    return np.asarray(turned @ raised)


def reaches(scenes: Sequence[Scene]) -> np.ndarray:
    """[F] Angstrom from the middle to the edge of each picture: a slow zoom on the cell."""
    radius = np.array([np.linalg.norm(scene.corners, axis=-1).max() for scene in scenes]) + 0.8
    padded = np.pad(radius, 2 * _ZOOM_WINDOW, mode="edge")
    width = 2 * _ZOOM_WINDOW + 1
    largest = np.lib.stride_tricks.sliding_window_view(padded, width).max(axis=-1)
    weights = np.hanning(width + 2)[1:-1]
    return np.convolve(largest, weights / weights.sum(), mode="valid")
