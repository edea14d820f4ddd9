"""A trajectory as one HTML file without network: a slider over frames turned with the mouse."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from crystal_diffusion_jax.report.animation import camera
from crystal_diffusion_jax.report.animation.scene import EDGES, Scene
from crystal_diffusion_jax.report.figures import require_plotly

MAX_FRAMES = 120
_EACH = 60  # milliseconds
_HEIGHT = 700  # pixels
# From the middle of the picture to its edge in pixels, for the sizes of balls; measured.
_REACH = 340


def to_html(scenes: Sequence[Scene]) -> str:
    """The page.

    Args:
      scenes: frames from the noise to the crystal.

    Raises:
      UserError: the extra `plots` is not installed.
    """
    go = require_plotly()
    frames = [
        go.Frame(name=str(number), data=_traces(go, scene, float(reach)))
        for number, (scene, reach) in enumerate(zip(scenes, camera.reaches(scenes), strict=True))
    ]
    axis = {"visible": False, "range": [-1.0, 1.0]}  # in units of the reach, which is the zoom
    figure = go.Figure(data=frames[-1].data, frames=frames)
    figure.update_layout(
        template="plotly_white",
        height=_HEIGHT,
        font={"family": "system-ui, sans-serif", "size": 14},
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        showlegend=False,
        scene={
            "xaxis": axis,
            "yaxis": axis,
            "zaxis": axis,
            "aspectmode": "manual",
            "aspectratio": dict.fromkeys("xyz", 2.1),  # fills the picture
            "camera": {
                "eye": {"x": 0.5, "y": -1.25, "z": 0.35},
                "projection": {"type": "orthographic"},
            },
        },
        sliders=[_slider(scenes)],
        updatemenus=[_play_button()],
    )
    page: str = figure.to_html(include_plotlyjs=True, auto_play=False)
    return page


def _traces(go: Any, scene: Scene, reach: float) -> list[Any]:
    """Cell, bonds and atoms; every frame has these three, be they empty."""
    positions = (scene.positions / reach).round(4)
    edges = _lines(scene.corners / reach, np.array(EDGES))
    bonds = _lines(positions, scene.bonds)
    radii = camera.ball_radii(scene.atomic_numbers) * scene.sizes
    rgb = np.round(255 * camera.colours(scene.atomic_numbers)).astype(int)
    colours = [f"rgb({r},{g},{b})" for r, g, b in rgb]
    edge_colour = "rgb({},{},{})".format(*np.round(255 * camera.EDGE_COLOUR).astype(int))
    return [
        _line_trace(go, edges, edge_colour, 2.0),
        _line_trace(go, bonds, "#9aa1ad", 1.0 + 7.0 * scene.bond_size),
        go.Scatter3d(
            x=positions[:, 0],
            y=positions[:, 1],
            z=positions[:, 2],
            mode="markers",
            marker={
                "size": (2 * _REACH / reach * radii).round(1),
                "color": colours,
                "opacity": 1.0,
                "line": {"width": 1, "color": "#555"},
            },
            text=[chemical_symbols[number] for number in scene.atomic_numbers],
            hoverinfo="text",
        ),
    ]


def _lines(points: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """[3 P, 3] both ends of each line, and a gap."""
    gap = np.full((len(pairs), 3), np.nan)
    return np.stack([points[pairs[:, 0]], points[pairs[:, 1]], gap], axis=1).reshape(-1, 3)


def _line_trace(go: Any, lines: np.ndarray, colour: str, width: float) -> Any:
    x, y, z = lines.round(4).T
    line = {"color": colour, "width": width}
    return go.Scatter3d(x=x, y=y, z=z, mode="lines", line=line, hoverinfo="skip")


def _show(names: list[str] | None, milliseconds: int) -> dict[str, Any]:
    """Arguments of plotly's `animate`: one frame, or all of them."""
    options = {
        "frame": {"duration": milliseconds, "redraw": True},
        "mode": "immediate",
        "fromcurrent": True,
        "transition": {"duration": 0},
    }
    return {"method": "animate", "args": [names, options]}


def _slider(scenes: Sequence[Scene]) -> dict[str, Any]:
    steps = [
        {"label": ", ".join(camera.caption(scene)), **_show([str(number)], 0)}
        for number, scene in enumerate(scenes)
    ]
    return {
        "active": len(scenes) - 1,
        "steps": steps,
        "currentvalue": {"prefix": "", "font": {"size": 18, "color": "#464a54"}},
        "ticklen": 0,
        "minorticklen": 0,
        "font": {"color": "rgba(0,0,0,0)"},
        "pad": {"t": 10, "l": 150, "b": 10},
    }


def _play_button() -> dict[str, Any]:
    from_noise = {**_show(None, _EACH), "label": "▶ from noise"}
    from_noise["args"][1]["fromcurrent"] = False
    return {
        "type": "buttons",
        "buttons": [from_noise],
        "showactive": False,
        "x": 0.0,
        "y": 0.0,
        "xanchor": "left",
        "yanchor": "top",
        "pad": {"t": 34, "l": 5},
    }
