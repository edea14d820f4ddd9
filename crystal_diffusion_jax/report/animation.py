"""Animations of noise becoming a crystal: a GIF by matplotlib, an HTML page by plotly."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from ase.data.colors import jmol_colors
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter1d, maximum_filter1d
from scipy.spatial.transform import Rotation

from crystal_diffusion_jax.report.scenes import EDGES, Scene

MAX_FRAMES = 100
_FRAMES_PER_SECOND = 14
_PAUSE = 24  # frames for which the crystal is shown before the GIF starts over
_INCHES, _DPI = 4.2, 92
# Azimuth in degrees at the first and last frame; the cell ends up seen mostly from the front.
_AZIMUTHS = (50.0, -22.0)
_ELEVATION = 14.0
_ZOOM_WINDOW = 8  # frames; the zoom is smoothed over twice as many
_BOND_RADIUS, _EDGE_RADIUS = 0.11, 0.025  # Angstrom
_EDGE_PIECES = 12
_EDGE_COLOUR = np.array([0.35, 0.37, 0.42])
_TEXT = "#464a54"
_HTML_PIXELS = 700
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def _caption(scene: Scene) -> tuple[str, str]:
    """Diffusion time and formula, e.g. ("t = 0", "SrVO₃")."""
    return f"t = {scene.t}", scene.formula.translate(_SUBSCRIPTS)


def _radii(scene: Scene) -> np.ndarray:
    """[M] radii of the balls in Angstrom; they differ less than the atoms' own."""
    return np.asarray((0.16 + 0.27 * covalent_radii[scene.atomic_numbers]) * scene.sizes)


def _colours(scene: Scene) -> np.ndarray:
    """[M, 3] Jmol's element colours, 0 to 1, darkened where too pale for a white background."""
    pale = jmol_colors[scene.atomic_numbers]
    luminance = pale @ np.array([0.3, 0.59, 0.11])
    return np.asarray(pale * np.minimum(1.0, 0.84 / luminance)[:, None])


def _reaches(scenes: Sequence[Scene]) -> np.ndarray:
    """[F] distance in Angstrom from the centre to the edge of each picture: a slow zoom."""
    radius = np.array([np.linalg.norm(scene.corners, axis=-1).max() for scene in scenes]) + 0.8
    largest = maximum_filter1d(radius, 2 * _ZOOM_WINDOW + 1, mode="nearest")
    return np.asarray(
        gaussian_filter1d(largest, _ZOOM_WINDOW / 2, mode="nearest", radius=_ZOOM_WINDOW)
    )


def _views(num: int) -> Rotation:
    """Rotations to axes x to the right, y up, z towards the viewer; fast first, slow at the end."""
    progress = np.sin(np.linspace(0, np.pi / 2, num))
    azimuth = _AZIMUTHS[0] + (_AZIMUTHS[1] - _AZIMUTHS[0]) * progress
    tilt = np.full(num, _ELEVATION - 90.0)
    return Rotation.from_euler("zx", np.stack([azimuth, tilt], axis=-1), degrees=True)


def to_gif(scenes: Sequence[Scene]) -> bytes:
    """The animation as a GIF.

    Args:
      scenes: at most MAX_FRAMES frames, from noise to crystal.
    """
    figure = Figure(figsize=(_INCHES, _INCHES))
    axes = figure.add_axes((0, 0, 1, 1))
    start = max(scene.t for scene in scenes)
    views, reaches = _views(len(scenes)), _reaches(scenes)

    def draw(number: int) -> list[Any]:
        scene = scenes[number]
        axes.clear()
        axes.axis("off")
        axes.set(xlim=(-1.0, 1.0), ylim=(-1.0, 1.0))
        _draw_scene(axes, scene, views[number], float(reaches[number]))
        time, formula = _caption(scene)
        axes.text(-0.9, -0.87, time, color=_TEXT, fontsize=11)
        axes.text(0.9, -0.87, formula, color=_TEXT, fontsize=11, ha="right")
        done = 1.0 - scene.t / max(start, 1)
        axes.plot([-0.9, 0.9], [-0.92, -0.92], color="#e4e6eb", linewidth=2.5)
        axes.plot([-0.9, -0.9 + 1.8 * done], [-0.92, -0.92], color="#787e8c", linewidth=2.5)
        return []

    numbers = [*range(len(scenes)), *[len(scenes) - 1] * _PAUSE]
    animation = FuncAnimation(figure, draw, frames=numbers, init_func=list)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "animation.gif"
        animation.save(str(path), PillowWriter(fps=_FRAMES_PER_SECOND), dpi=_DPI)
        return path.read_bytes()


def _draw_scene(axes: Any, scene: Scene, view: Rotation, reach: float) -> None:
    """Balls and sticks in parallel projection, drawn from back to front, the farthest palest."""
    positions, corners = view.apply(scene.positions) / reach, view.apply(scene.corners) / reach
    colours, radii = _colours(scene), _radii(scene) / reach

    # Each half of a bond has the colour of its atom and starts near the surface of the ball; cell
    # edges are cut into pieces. So every stick is in front of or behind every ball as a whole.
    atoms = np.concatenate([scene.bonds, scene.bonds[:, ::-1]])
    here, there = positions[atoms[:, 0]], positions[atoms[:, 1]]
    steps = np.linspace(0.0, 1.0, _EDGE_PIECES + 1)[:, None, None]
    points = corners[EDGES[:, 0]] * (1.0 - steps) + corners[EDGES[:, 1]] * steps
    bond_widths = scene.bond_size * _BOND_RADIUS / reach * scene.sizes[atoms].min(axis=1, initial=1)
    bonds = _sticks(
        here + 0.9 * radii[atoms[:, 0], None] * _unit(there - here), (here + there) / 2, bond_widths
    )
    edges = _sticks(
        points[:-1].reshape(-1, 3), points[1:].reshape(-1, 3), np.array(_EDGE_RADIUS / reach)
    )
    angles = np.linspace(0.0, 2 * np.pi, 40, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)], axis=-1)
    balls = positions[:, None] + radii[:, None, None] * circle
    gloss = positions[:, None] + radii[:, None, None] * (0.28 * circle + [-0.32, 0.36, 1e-3])

    # Shapes, face colours, brightness of the outlines, and a shift towards the viewer: a ball hides
    # what is inside it, a bond the edge that it lies on.
    layers = [
        (edges, np.tile(_EDGE_COLOUR, (len(edges), 1)), 1.0, -2 * _BOND_RADIUS / reach),
        (bonds, 0.92 * colours[atoms[:, 0]], 0.55, 0.0),
        (balls, colours, 0.55, radii),
        (gloss, 1.0 - 0.45 * (1.0 - colours), 1.0, radii),
    ]
    shapes = [shape for layer, *_ in layers for shape in layer]
    faces = np.concatenate([colour for _, colour, _, _ in layers])
    outlines = np.concatenate([brightness * colour for _, colour, brightness, _ in layers])
    depths = np.concatenate([layer[..., 2].mean(axis=1) + lift for layer, _, _, lift in layers])
    fog = (0.8 + 0.2 * np.clip(depths, -1.0, 1.0))[:, None]
    order = np.argsort(depths, kind="stable")
    axes.add_collection(
        PolyCollection(
            [shapes[index][:, :2] for index in order],
            facecolors=(1.0 - fog * (1.0 - faces))[order],
            edgecolors=(1.0 - fog * (1.0 - outlines))[order],
            linewidths=0.6,
        )
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _sticks(starts: np.ndarray, ends: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """[P, 4, 3] flat rectangles facing the viewer; starts and ends are [P, 3], widths [P] or []."""
    across = _unit(np.cross(ends - starts, [0.0, 0.0, 1.0])) * widths[..., None]
    return np.stack([starts - across, starts + across, ends + across, ends - across], axis=1)


def to_html(scenes: Sequence[Scene]) -> str:
    """The animation as a page with a slider, which can be turned and needs no network.

    Args:
      scenes: at most MAX_FRAMES frames, from noise to crystal.
    """
    import plotly.graph_objects as go

    frames = [
        go.Frame(name=str(number), data=_traces(go, scene, float(reach)))
        for number, (scene, reach) in enumerate(zip(scenes, _reaches(scenes), strict=True))
    ]
    steps = [
        {"label": ", ".join(_caption(scene)), **_animate_call([str(number)])}
        for number, scene in enumerate(scenes)
    ]
    axis = {"visible": False, "range": [-1.0, 1.0]}
    eye = {"x": 0.5, "y": -1.25, "z": 0.35}
    figure = go.Figure(data=frames[-1].data, frames=frames)
    figure.update_layout(
        template="plotly_white",
        height=_HTML_PIXELS,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        showlegend=False,
        scene={
            **dict.fromkeys(("xaxis", "yaxis", "zaxis"), axis),
            "aspectmode": "manual",
            "aspectratio": dict.fromkeys("xyz", 2.1),  # fills the picture
            "camera": {"eye": eye, "projection": {"type": "orthographic"}},
        },
        sliders=[
            {
                "active": len(scenes) - 1,
                "steps": steps,
                "currentvalue": {"prefix": "", "font": {"size": 18, "color": _TEXT}},
                "ticklen": 0,
                "minorticklen": 0,
                "font": {"color": "rgba(0,0,0,0)"},  # no labels below the slider
                "pad": {"t": 10, "l": 150, "b": 10},
            }
        ],
        updatemenus=[
            {
                "type": "buttons",
                "buttons": [{"label": "▶ from noise", **_animate_call(None)}],
                "x": 0.0,
                "y": 0.0,
                "xanchor": "left",
                "yanchor": "top",
                "pad": {"t": 34, "l": 5},
            }
        ],
    )
    page: str = figure.to_html(include_plotlyjs=True, auto_play=False)
    return page


def _animate_call(names: list[str] | None) -> dict[str, Any]:
    """A call of plotly's `animate` to show the named frames, or all from the first to the last."""
    frame = {"duration": 1000 // _FRAMES_PER_SECOND, "redraw": True}
    options = {"frame": frame, "mode": "immediate", "transition": {"duration": 0}}
    return {"method": "animate", "args": [names, options]}


def _traces(go: Any, scene: Scene, reach: float) -> list[Any]:
    """Cell, bonds and atoms in units of the reach; every frame has all three, even if empty."""
    positions = (scene.positions / reach).round(4)
    colours = [f"rgb({r},{g},{b})" for r, g, b in np.round(255 * _colours(scene)).astype(int)]
    return [
        _lines(go, scene.corners / reach, EDGES, "rgb(89,94,107)", 2.0),
        _lines(go, positions, scene.bonds, "#9aa1ad", 1.0 + 7.0 * scene.bond_size),
        go.Scatter3d(
            x=positions[:, 0],
            y=positions[:, 1],
            z=positions[:, 2],
            mode="markers",
            marker={
                "size": (0.97 * _HTML_PIXELS / reach * _radii(scene)).round(1),
                "color": colours,
                "opacity": 1.0,
                "line": {"width": 1, "color": "#555"},
            },
            text=[chemical_symbols[number] for number in scene.atomic_numbers],
            hoverinfo="text",
        ),
    ]


def _lines(go: Any, points: np.ndarray, pairs: np.ndarray, colour: str, width: float) -> Any:
    gaps = np.full((len(pairs), 3), np.nan)
    ends = np.stack([points[pairs[:, 0]], points[pairs[:, 1]], gaps], axis=1).reshape(-1, 3)
    x, y, z = ends.round(4).T
    line = {"color": colour, "width": width}
    return go.Scatter3d(x=x, y=y, z=z, mode="lines", line=line, hoverinfo="skip")
