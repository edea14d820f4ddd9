"""A trajectory as an animated GIF: noise becoming a crystal on a white background."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from crystal_diffusion_jax.report.animation import camera
from crystal_diffusion_jax.report.animation.raster import Canvas
from crystal_diffusion_jax.report.animation.scene import EDGES, Scene

MAX_FRAMES = 120
MAX_BYTES = 1_500_000
_PIXELS = 420
_COLOURS = 96
# Milliseconds; viewers round to hundredths of a second.
_FIRST, _EACH, _LAST = 400, 60, 1500
_TEXT, _TRACK, _DONE = (70, 74, 84), (228, 230, 235), (120, 126, 140)


def to_gif(scenes: Sequence[Scene]) -> bytes:
    """The animation, of at most MAX_BYTES: smaller pictures where large ones take more.

    Args:
      scenes: at most MAX_FRAMES frames, from the noise to the crystal.
    """
    pictures = draw(scenes)
    size = _PIXELS
    while True:
        content = _encode(
            [picture.resize((size, size), Image.Resampling.LANCZOS) for picture in pictures]
        )
        if len(content) <= MAX_BYTES:
            return content
        size = size * 4 // 5


def draw(scenes: Sequence[Scene]) -> list[Image.Image]:
    """Each frame as a picture."""
    start = max(scene.t for scene in scenes)
    pictures = []
    for scene, view, reach in zip(
        scenes, camera.views(len(scenes)), camera.reaches(scenes), strict=True
    ):
        picture = Image.fromarray(_canvas(scene, view, float(reach)).pixels())
        _write_caption(picture, scene, start)
        pictures.append(picture)
    return pictures


def _canvas(scene: Scene, view: np.ndarray, reach: float) -> Canvas:
    canvas = Canvas(_PIXELS, reach)
    corners, positions = scene.corners @ view, scene.positions @ view
    for first, second in EDGES:
        canvas.stick(
            corners[first], corners[second], 0.0032 * reach, camera.EDGE_COLOUR, is_flat=True
        )
    colours = camera.colours(scene.atomic_numbers)
    for first, second in scene.bonds:
        thickness = scene.bond_size * min(scene.sizes[first], scene.sizes[second])
        middle = (positions[first] + positions[second]) / 2
        for end in (first, second):
            radius = camera.BOND_RADIUS * thickness
            canvas.stick(positions[end], middle, radius, colours[end])
    radii = camera.ball_radii(scene.atomic_numbers) * scene.sizes
    for position, radius, colour in zip(positions, radii, colours, strict=True):
        canvas.ball(position, float(radius), colour)
    return canvas


def _write_caption(picture: Image.Image, scene: Scene, start: int) -> None:
    """Diffusion time on the left, the formula on the right, a bar of progress below."""
    time, formula = camera.caption(scene)
    pen = ImageDraw.Draw(picture)
    size = picture.width
    margin, low = size // 20, size - size // 20
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    font = ImageFont.truetype(str(path), size // 24)
    pen.text((margin, low - size // 60), time, _TEXT, font, anchor="ls")
    pen.text((low, low - size // 60), formula, _TEXT, font, anchor="rs")
    done = margin + (low - margin) * (1 - scene.t / max(start, 1))
    pen.rectangle((margin, low, low, low + 2), _TRACK)
    pen.rectangle((margin, low, done, low + 2), _DONE)


def _encode(pictures: Sequence[Image.Image]) -> bytes:
    # One palette for all, from a dozen of them; without dithering, which would flicker.
    chosen = [pictures[i] for i in np.linspace(0, len(pictures) - 1, 12).astype(int)]
    joined = Image.fromarray(np.concatenate([np.asarray(picture) for picture in chosen]))
    palette = joined.quantize(_COLOURS, method=Image.Quantize.MEDIANCUT)
    first, *others = (
        picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures
    )
    content = io.BytesIO()
    first.save(
        content,
        format="GIF",
        save_all=True,
        append_images=others,
        duration=[_FIRST] + [_EACH] * (len(others) - 1) + [_LAST],
        loop=0,
    )
    return content.getvalue()
