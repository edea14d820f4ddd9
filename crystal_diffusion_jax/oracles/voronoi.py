"""Solid angles of the faces of an atom's Voronoi cell, as CrystalNN needs them.

pymatgen has qhull triangulate all atoms within 7 Angstrom of an atom, of which a dozen or two
shape its cell. Where no rounding decides about the faces, the cell alone gives the same angles to
ten digits: it is the convex hull of the neighbours, inverted at a sphere. Where one does, as in
many symmetric crystals, four or more faces of which meet at a corner, qhull gets the same numbers
in the same order as from pymatgen.
"""

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int, Int64
from pymatgen.core import Structure
from pymatgen.optimization.neighbors import find_points_in_spheres
from scipy.spatial import ConvexHull, QhullError, Voronoi

SEARCH_RADIUS = 7.0  # Angstrom; that of CrystalNN

# An atom's cell is generic if each of its corners is at least this far from all faces but three
# (Angstrom), the normals of which span at least this volume. Both are far above the rounding of a
# corner, some 1e-14.
MIN_SLACK = 1e-5
MIN_VOLUME = 1e-4
# Angstrom. Two closer atoms get no generic cell.
_MIN_DISTANCE = 0.1
# Neighbours that are tried first; nearly always enough.
_NEAREST = 40


class Around(NamedTuple):
    """Periodic neighbours of an atom.

    Attributes:
      atom: its index in the cell.
      image: its lattice translation.
    """

    atom: Int64[np.ndarray, " neighbors"]
    image: Int64[np.ndarray, "neighbors 3"]


class Faces(NamedTuple):
    """Faces of an atom's Voronoi cell.

    Attributes:
      around: the atom behind each face.
      angle: solid angle of the face in steradian, not zero.
    """

    around: Around
    angle: Float64[np.ndarray, " neighbors"]


class Sphere(NamedTuple):
    """Other atoms within the search radius of an atom, nearest first.

    Attributes:
      around: which they are.
      vector: from the atom to them, in Angstrom.
      distance: the same.
    """

    around: Around
    vector: Float64[np.ndarray, "neighbors 3"]
    distance: Float64[np.ndarray, " neighbors"]


def spheres(
    lattice: Float[np.ndarray, "3 3"], frac_coords: Float[np.ndarray, "atoms 3"]
) -> list[Sphere]:
    """Surroundings of all atoms.

    Args:
      lattice: in Angstrom.
      frac_coords: in [0, 1].
    """
    lattice = np.ascontiguousarray(lattice, dtype=np.float64)
    positions = np.ascontiguousarray(frac_coords @ lattice)
    center, index, image, distance = find_points_in_spheres(
        all_coords=positions,
        center_coords=positions,
        r=SEARCH_RADIUS,
        pbc=np.ones(3, dtype=np.int64),
        lattice=lattice,
        tol=1e-8,
    )
    others = np.flatnonzero((center != index) | image.any(axis=1))
    order = others[np.lexsort((distance[others], center[others]))]
    distance, around = distance[order], Around(index[order], image[order].astype(np.int64))
    difference = frac_coords[around.atom] - frac_coords[center[order]] + around.image
    vector = difference @ lattice
    ends = np.searchsorted(center[order], np.arange(len(positions) + 1))
    parts = [slice(*pair) for pair in itertools.pairwise(ends.tolist())]
    return [Sphere(Around(around.atom[p], around.image[p]), vector[p], distance[p]) for p in parts]


def generic_faces(sphere: Sphere) -> Faces | None:
    """Faces of a generic cell; None if the cell is not, or if it ends beyond the search radius."""
    distance = sphere.distance
    if len(distance) == 0 or distance[0] < _MIN_DISTANCE:
        return None
    inverted = sphere.vector * (2.0 / distance**2)[:, None]
    tried = min(_NEAREST, len(distance))
    while True:
        try:
            hull = ConvexHull(inverted[:tried])
        except QhullError:  # too few, or all in one plane
            return None
        # Corners c of the cell: c . inverted = 1 for the neighbours behind the faces there.
        normals, offsets = hull.equations[:, :3], hull.equations[:, 3:]
        # Neighbours further away than twice the furthest corner cannot shape the cell.
        reach = np.inf
        if (offsets < 0).all():
            corners = normals / -offsets
            reach = 2.0 * math.sqrt(np.einsum("cx,cx->c", corners, corners).max()) + 1e-3
        if reach < (distance[tried] if tried < len(distance) else SEARCH_RADIUS):
            break
        if tried == len(distance):
            return None
        tried = len(distance) if reach > SEARCH_RADIUS else int(np.searchsorted(distance, reach))
    faces = hull.simplices  # the three faces of each corner
    slack = (1.0 - corners @ inverted[:tried].T) * (distance[:tried] / 2.0)
    directions = sphere.vector[faces] / distance[faces][..., None]
    if (np.sum(slack < MIN_SLACK, axis=1) != 3).any() or (
        np.abs(np.linalg.det(directions)) < MIN_VOLUME
    ).any():
        return None
    angle = _angles_by_edges(corners, faces, hull.neighbors, tried)
    found = np.flatnonzero(angle)
    return Faces(Around(sphere.around.atom[found], sphere.around.image[found]), angle[found])


def _angles_by_edges(
    corners: Float64[np.ndarray, "corners 3"],
    faces: Int[np.ndarray, "corners 3"],
    adjacent: Int[np.ndarray, "corners 3"],
    num_faces: int,
) -> Float64[np.ndarray, " faces"]:
    """Solid angles of all faces: sums over the triangles of each edge and the face's middle.

    Args:
      corners: of the cell, as seen from its atom.
      faces: the three that meet at a corner.
      adjacent: the corner at the other end of the edge that does not belong to that face.
      num_faces: with those that have no corner.
    """
    middle = np.zeros((num_faces, 3))
    np.add.at(middle, faces.ravel(), np.repeat(corners, 3, axis=0))
    middle /= np.maximum(np.bincount(faces.ravel(), minlength=num_faces), 1)[:, None]
    start, opposite = np.nonzero(adjacent > np.arange(len(corners))[:, None])  # each edge once
    ends = np.tile([start, adjacent[start, opposite]], 2)
    face = np.concatenate([faces[start, (opposite + 1) % 3], faces[start, (opposite + 2) % 3]])
    a, b, c = middle[face], corners[ends[0]], corners[ends[1]]
    a_b, a_c, b_c = (np.einsum("ex,ex->e", x, y) for x, y in ((a, b), (a, c), (b, c)))
    a_length, b_length, c_length = (np.sqrt(np.einsum("ex,ex->e", x, x)) for x in (a, b, c))
    # Van Oosterom and Strackee, doi:10.1109/TBME.1983.325207.
    volume = np.abs(np.einsum("ex,ex->e", a, np.cross(b, c)))
    divisor = a_length * b_length * c_length + c_length * a_b + b_length * a_c + a_length * b_c
    return np.bincount(face, weights=2.0 * np.arctan2(volume, divisor), minlength=num_faces)


def faces_as_pymatgen(structure: Structure, site: int) -> Faces | None:
    """Faces of the cell of one atom to the last bit as pymatgen's VoronoiNN has them.

    None where VoronoiNN would search further than the first radius, or fail.
    """
    lattice, center = structure.lattice, structure[site].coords
    found_points: Any = lattice.get_points_in_sphere(
        structure.frac_coords, center, SEARCH_RADIUS, zip_results=False
    )
    frac_coords, distance, index, image = found_points
    order = np.argsort(distance, kind="stable")
    # One by one, as products of matrices are rounded differently.
    points = [lattice.get_cartesian_coords(frac_coords[i]) for i in order]
    try:
        cells = Voronoi(points)
    except QhullError:
        return None
    behind, angles = [], []
    ridges = np.flatnonzero((cells.ridge_points == 0).any(axis=1))
    for ridge in ridges.tolist():
        corners = cells.ridge_vertices[ridge]
        if -1 in corners:
            return None
        behind.append(order[cells.ridge_points[ridge].sum()])  # the other one is 0
        angles.append(solid_angle(points[0], cells.vertices[corners]))
    angle = np.array(angles, dtype=np.float64)
    found = np.flatnonzero(angle > 0)
    if len(found) == 0:
        return None
    behind_faces = np.array(behind)[found]
    return Faces(Around(index[behind_faces], image[behind_faces].astype(np.int64)), angle[found])


def solid_angle(
    center: Float64[np.ndarray, " 3"], corners: Float64[np.ndarray, "corners 3"]
) -> float:
    """pymatgen's `solid_angle` in a quarter of the time, with all of its roundings.

    A triangle that has no area, down to the last bit, counts half of the sphere.
    """
    vectors = [corner - center for corner in corners]
    lengths = [math.sqrt(np.dot(vector, vector)) for vector in vectors]
    components = [vector.tolist() for vector in vectors]
    angle = 0.0
    a, a_length = vectors[0], lengths[0]
    products = [np.dot(a, vector) for vector in vectors]
    for i in range(1, len(vectors) - 1):
        b, c = vectors[i], vectors[i + 1]
        (b0, b1, b2), (c0, c1, c2) = components[i], components[i + 1]
        cross = np.array([b1 * c2 - b2 * c1, b2 * c0 - b0 * c2, b0 * c1 - b1 * c0])
        volume = abs(np.dot(a, cross))
        divisor = (
            a_length * lengths[i] * lengths[i + 1]
            + lengths[i + 1] * products[i]
            + lengths[i] * products[i + 1]
            + a_length * np.dot(b, c)
        )
        if divisor == 0:
            half = 0.5 * math.pi if volume > 0 else -0.5 * math.pi
        else:
            half = np.arctan(volume / divisor)
        angle += (half if half > 0 else half + math.pi) * 2
    return float(angle)
