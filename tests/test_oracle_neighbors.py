"""oracles/crystal_nn.py and voronoi.py: to the last bond what pymatgen's CrystalNN finds."""

import math
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.core import local_env as pymatgen_env
from pymatgen.core.local_env import CrystalNN

from crystal_diffusion_jax.oracles import crystal_nn, voronoi
from crystal_diffusion_jax.oracles.crystal_nn import BoundedStructure, SearchTooLarge
from crystal_diffusion_jax.oracles.voronoi import Around
from tests import golden

# A site's neighbours: atom and image.
Found = list[set[tuple[int, ...]]] | str


def as_sets(around: list[Around]) -> Found:
    listed = [np.column_stack([each.atom, each.image]).tolist() for each in around]
    assert all(len(each) == len(set(map(tuple, each))) for each in listed)
    return [set(map(tuple, each)) for each in listed]


def bounded(structure: Structure) -> BoundedStructure:
    frac_coords = structure.frac_coords
    return BoundedStructure(
        structure.lattice, structure.species, frac_coords - np.floor(frac_coords)
    )


def here(structure: Structure) -> Found:
    try:
        return as_sets(crystal_nn.neighbors(bounded(structure)))
    except (Exception, SearchTooLarge) as error:
        return f"{type(error).__name__}: {error}"


def by_pymatgen(structure: Structure) -> Found:
    finder = CrystalNN(distance_cutoffs=None, x_diff_weight=-1, porous_adjustment=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            listed = finder.get_all_nn_info(bounded(structure))
    except (Exception, SearchTooLarge) as error:
        return f"{type(error).__name__}: {error}"
    return [
        {(each["site_index"], *map(int, each["image"])) for each in neighbors}
        for neighbors in listed
    ]


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many sites are tried in each way from now on."""
    counts = {"generic_faces": 0, "faces_as_pymatgen": 0, "by_pymatgen": 0}

    def counting(name: str) -> None:
        function = getattr(crystal_nn, name)

        def counted(*args: object) -> object:
            counts[name] += 1
            return function(*args)

        monkeypatch.setattr(crystal_nn, name, counted)

    for name in counts:
        counting(name)
    return counts


def of_group(
    group: str, lattice: Lattice, species: list[str], sites: list[list[float]]
) -> Structure:
    return Structure.from_spacegroup(group, lattice, species, sites)


SYMMETRIC = {
    "simple cubic": Structure(Lattice.cubic(3.35), ["Po"], [[0.2, 0.1, 0.7]]),
    "bcc": of_group("Im-3m", Lattice.cubic(2.87), ["Fe"], [[0, 0, 0]]),
    "fcc": of_group("Fm-3m", Lattice.cubic(3.61), ["Cu"], [[0, 0, 0]]),
    "fcc, primitive": Structure(Lattice.rhombohedral(2.553, 60), ["Cu"], [[0, 0, 0]]),
    "diamond": of_group("Fd-3m", Lattice.cubic(3.567), ["C"], [[0, 0, 0]]),
    "hcp": of_group("P6_3/mmc", Lattice.hexagonal(3.2, 5.2), ["Mg"], [[1 / 3, 2 / 3, 0.25]]),
    "ideal hcp": of_group(
        "P6_3/mmc", Lattice.hexagonal(3.2, 3.2 * math.sqrt(8 / 3)), ["Mg"], [[1 / 3, 2 / 3, 0.25]]
    ),
    "graphite": of_group(
        "P6_3/mmc", Lattice.hexagonal(2.46, 6.7), ["C", "C"], [[0, 0, 0.25], [1 / 3, 2 / 3, 0.25]]
    ),
    "perovskite": Structure(
        Lattice.cubic(3.905),
        ["Sr", "Ti", "O", "O", "O"],
        np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]),
    ),
    "rock salt": of_group("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "fluorite": of_group(
        "Fm-3m", Lattice.cubic(5.46), ["Ca", "F"], [[0, 0, 0], [0.25, 0.25, 0.25]]
    ),
    "rutile": of_group(
        "P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
    ),
}
ODD = {
    "layers": Structure(Lattice.tetragonal(3.0, 18.0), ["Si"], [[0, 0, 0]]),
    "a chain": Structure(Lattice.orthorhombic(2.5, 9.0, 11.0), ["C"], [[0, 0, 0]]),
    "a molecule": Structure(Lattice.cubic(12.0), ["O", "C"], np.array([[0, 0, 0], [0.1, 0, 0]])),
    "an atom alone": Structure(Lattice.cubic(30.0), ["C"], [[0, 0, 0]]),
    "two in one place": Structure(
        Lattice.cubic(4.0), ["C", "O", "N"], [[0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.6, 0.7, 0.6]]
    ),
    "nearly in one place": Structure(
        Lattice.cubic(4.0), ["C", "O", "N"], [[0.1, 0.2, 0.3], [0.1, 0.2, 0.301], [0.6, 0.7, 0.6]]
    ),
    "dense": Structure(Lattice.cubic(1.7), ["C", "C"], np.array([[0, 0, 0], [0.4, 0.3, 0.5]])),
    "too dense": Structure(Lattice.cubic(0.6), ["C"], [[0, 0, 0]]),
    "too thin": Structure(Lattice.orthorhombic(0.02, 0.02, 1000.0), ["C"], [[0, 0, 0]]),
    "a sheared cell": Structure(
        np.array([[4.0, 0, 0], [19.0, 4.1, 0], [0, -13.0, 4.2]]),
        ["C", "O"],
        np.array([[0, 0, 0], [0.5, 0.4, 0.6]]),
    ),
}


@pytest.mark.parametrize("name", [*SYMMETRIC, *ODD])
def test_neighbors_are_those_of_pymatgen(name: str) -> None:
    structure = (SYMMETRIC | ODD)[name]
    assert here(structure) == by_pymatgen(structure)


def test_what_has_no_neighbors_is_named() -> None:
    failed = {name for name, each in ODD.items() if isinstance(here(each), str)}
    assert failed == {"two in one place", "too dense", "too thin"}


@pytest.mark.parametrize("noise", [1e-3, 1e-6, 1e-8, 1e-10, 1e-12, 1e-14, 1e-16])
def test_rounding_decides_as_in_pymatgen(noise: float) -> None:
    # At a corner where many faces nearly meet, tiny faces come and go, and one without area even
    # counts half of the sphere.
    rng = np.random.default_rng(round(-math.log10(noise)))
    for structure in SYMMETRIC.values():
        moved = Structure(
            structure.lattice.matrix * (1 + noise * rng.normal(size=(3, 3))),
            structure.species,
            structure.frac_coords + noise * rng.normal(size=structure.frac_coords.shape),
        )
        assert here(moved) == by_pymatgen(moved)


@st.composite
def crystals(draw: st.DrawFn) -> Structure:
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    num_atoms = draw(st.integers(1, 6))
    lattice = np.diag(rng.uniform(2.0, 9.0, 3)) + draw(st.sampled_from([0.0, 1.0])) * rng.normal(
        size=(3, 3)
    )
    frac_coords = rng.random((num_atoms, 3))
    grid = draw(st.sampled_from([0, 2, 4]))  # atoms on a grid have degenerate cells
    if grid:
        frac_coords = np.round(frac_coords * grid) / grid
    return Structure(lattice, ["C"] * num_atoms, frac_coords)


@given(crystals())
@settings(max_examples=40)
def test_any_crystal_has_the_neighbors_that_pymatgen_finds(structure: Structure) -> None:
    assert here(structure) == by_pymatgen(structure)


def random_crystal(num_atoms: int, seed: int) -> Structure:
    rng = np.random.default_rng(seed)
    side = (12.0 * num_atoms) ** (1 / 3)
    lattice = side * (np.eye(3) + rng.normal(0, 0.1, (3, 3)))
    return Structure(lattice, ["C"] * num_atoms, rng.random((num_atoms, 3)))


def test_only_where_rounding_decides_all_atoms_around_are_triangulated(
    ways: dict[str, int],
) -> None:
    for seed in range(10):
        here(random_crystal(8, seed))
    assert ways == {"generic_faces": 80, "faces_as_pymatgen": 0, "by_pymatgen": 0}
    here(SYMMETRIC["perovskite"])
    assert ways == {"generic_faces": 85, "faces_as_pymatgen": 5, "by_pymatgen": 0}
    here(ODD["layers"])  # no corner of the cell is within the first radius
    assert ways["by_pymatgen"] == 1


def faces(structure: Structure, site: int, generic: bool) -> dict[tuple[int, ...], float]:
    if generic:
        sphere = voronoi.spheres(structure.lattice.matrix, structure.frac_coords)[site]
        found = voronoi.generic_faces(sphere)
    else:
        found = voronoi.faces_as_pymatgen(structure, site)
    assert found is not None
    rows = np.column_stack([found.around.atom, found.around.image]).tolist()
    return dict(zip(map(tuple, rows), found.angle.tolist(), strict=True))


def test_both_ways_find_the_same_faces_which_close_the_sphere() -> None:
    for seed in range(5):
        structure = random_crystal(5, seed)
        for site in range(5):
            by_hull = faces(structure, site, generic=True)
            assert sum(by_hull.values()) == pytest.approx(4 * math.pi, rel=1e-12)
            assert by_hull == pytest.approx(faces(structure, site, generic=False), rel=1e-8)


corner = st.tuples(*[st.floats(-5, 5)] * 3)


@given(st.lists(corner, min_size=3, max_size=7), corner)
@example([(0.0, 0.0, 1.0), (0.0, 0.0, 1.0), (1.0, 0.0, 1.0)], (0.0, 0.0, 0.0))
@example([(1.0, 0.0, 0.0), (-1.0, 1.0, 0.0), (-1.0, -1.0, 0.0)], (0.0, 0.0, 0.0))
def test_solid_angles_are_those_of_pymatgen_to_the_last_bit(
    corners: list[tuple[float, ...]], center: tuple[float, ...]
) -> None:
    vertices = np.array(corners)
    with np.errstate(all="ignore"):
        expected = float(pymatgen_env.solid_angle(np.array(center), list(vertices)))
        found = voronoi.solid_angle(np.array(center), vertices)
    assert found == expected or (math.isnan(found) and math.isnan(expected))


def rows_of_the_data_sets() -> Iterator[Structure]:
    """Every sixth crystal: pymatgen takes two minutes for all of them, in which none differ."""
    for dataset in ("perov5", "carbon24", "mp20"):
        for row in golden.table(dataset, "test")[::6]:
            yield golden.reduced_structure(row["cif"])


@pytest.mark.slow
def test_neighbors_in_the_test_splits_are_those_of_pymatgen(ways: dict[str, int]) -> None:
    # Reduced, as the original reads them, and in canonical orientation.
    count = 0
    for structure in rows_of_the_data_sets():
        assert here(structure) == by_pymatgen(structure)
        count += 1
    assert count >= 400
    assert ways["by_pymatgen"] < 0.01 * ways["generic_faces"]


@pytest.mark.slow
@pytest.mark.parametrize("oracle", ["perov5", "carbon24", "mp20"])
@pytest.mark.parametrize("noise", [0.0, 1e-10, 1e-5, 1e-2])
def test_neighbors_in_changed_golden_crystals_are_those_of_pymatgen(
    oracle: str, noise: float
) -> None:
    rng = np.random.default_rng(0)
    for crystal in golden.crystals(oracle)[::3]:
        structure = golden.structure(crystal)
        moves = noise * rng.normal(size=structure.frac_coords.shape)
        moved = Structure(structure.lattice, structure.species, structure.frac_coords + moves)
        assert here(moved) == by_pymatgen(moved)
