"""Balls and sticks as pixels: every pixel shows whatever surface is nearest to the viewer.

Parallel projection: x to the right, y upwards, z towards the viewer.
"""

import numpy as np

_LIGHT = np.array([-0.42, 0.55, 0.72]) / np.linalg.norm([-0.42, 0.55, 0.72])
# Half-way between the light and the viewer.
_HALF = (_LIGHT + np.eye(3)[2]) / np.linalg.norm(_LIGHT + np.eye(3)[2])
# What is farthest away is this much whiter than what is nearest.
_FOG = 0.45
# Each pixel is the mean of so many, squared.
_SUPERSAMPLING = 2


class Canvas:
    """A white square picture of what lies within a distance of the origin."""

    def __init__(self, size: int, reach: float) -> None:
        """An empty one.

        Args:
          size: pixels along an edge.
          reach: Angstrom from the middle to an edge.
        """
        self._pixels = size * _SUPERSAMPLING
        self._reach = reach
        centres = (np.arange(self._pixels) + 0.5) * 2 * reach / self._pixels - reach
        centres = centres.astype(np.float32)
        self._x, self._y = centres[None, :], -centres[:, None]
        self._depth = np.full((self._pixels, self._pixels), -np.inf, np.float32)
        self._colour = np.ones((self._pixels, self._pixels, 3), np.float32)

    def ball(self, centre: np.ndarray, radius: float, colour: np.ndarray) -> None:
        """Draws a sphere; the centre is [3], the colour [3] in 0..1."""
        window = self._window(centre, centre, radius)
        dx, dy = self._x[:, window[1]] - centre[0], self._y[window[0]] - centre[1]
        height = radius**2 - dx**2 - dy**2
        dz = np.sqrt(np.maximum(height, 0.0))
        normal = np.stack(np.broadcast_arrays(dx, dy, dz), axis=-1) / radius
        self._paint(window, height > 0, centre[2] + dz, _shaded(normal, colour))

    def stick(
        self,
        start: np.ndarray,
        end: np.ndarray,
        radius: float,
        colour: np.ndarray,
        is_flat: bool = False,
    ) -> None:
        """Draws a cylinder without lids, from [3] to [3]; a flat one has no light and shade."""
        along = end - start
        length = float(np.linalg.norm(along))
        across = float(np.linalg.norm(along[:2]))
        if across < 1e-3 * max(length, 1e-6):  # seen from its end
            return
        # In the plane of z and the stick: its direction (a, b), its visible side (-b, a).
        a, b = across / length, along[2] / length
        ux, uy = along[:2] / across
        window = self._window(np.minimum(start, end), np.maximum(start, end), radius)
        dx, dy = self._x[:, window[1]] - start[0], self._y[window[0]] - start[1]
        aside = uy * dx - ux * dy
        height = np.sqrt(np.maximum(radius**2 - aside**2, 0.0))
        forward = (ux * dx + uy * dy + height * b) / a
        hit = (np.abs(aside) < radius) & (forward >= 0) & (forward <= length)
        normal = np.stack(
            [aside * uy - height * b * ux, -aside * ux - height * b * uy, height * a], axis=-1
        )
        painted = np.broadcast_to(colour, normal.shape)
        if not is_flat:
            painted = _shaded(normal / radius, colour)
        self._paint(window, hit, start[2] + forward * b + height * a, painted)

    def pixels(self) -> np.ndarray:
        """The picture, [size, size, 3] uint8."""
        drawn = np.isfinite(self._depth)
        fog = _FOG * np.clip((self._reach - self._depth) / (2 * self._reach), 0.0, 1.0)
        fog = np.where(drawn, fog, 0.0)[..., None]
        colour = self._colour * (1 - fog) + fog
        size = self._pixels // _SUPERSAMPLING
        shape = (size, _SUPERSAMPLING, size, _SUPERSAMPLING, 3)
        return np.round(255 * colour.reshape(shape).mean(axis=(1, 3))).astype(np.uint8)

    def _window(self, low: np.ndarray, high: np.ndarray, margin: float) -> tuple[slice, slice]:
        """Rows and columns that a body between two corners can cover."""
        scale = self._pixels / (2 * self._reach)

        def between(first: float, last: float) -> slice:
            begin, end = np.clip(
                [(first + self._reach) * scale - 1, (last + self._reach) * scale + 1],
                0,
                self._pixels,
            )
            return slice(int(begin), int(np.ceil(end)))

        rows = between(-high[1] - margin, -low[1] + margin)
        return rows, between(low[0] - margin, high[0] + margin)

    def _paint(
        self, window: tuple[slice, slice], hit: np.ndarray, depth: np.ndarray, colour: np.ndarray
    ) -> None:
        nearer = hit & (depth > self._depth[window])
        self._depth[window][nearer] = np.broadcast_to(depth, nearer.shape)[nearer]
        self._colour[window][nearer] = colour[nearer]


def _shaded(normal: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Colours [..., 3] of a surface with outward unit normals [..., 3]."""
    diffuse = np.maximum(normal @ _LIGHT, 0.0)[..., None]
    shine = np.maximum(normal @ _HALF, 0.0)[..., None] ** 40
    rim = np.clip(normal[..., 2:] / 0.45, 0.0, 1.0)  # a dark outline sets bodies apart
    lit = colour * (0.5 + 0.5 * diffuse) * (0.45 + 0.55 * rim)
    return np.asarray(np.clip(lit + 0.4 * shine, 0.0, 1.0))
