"""potentials/fire.py against ASE's FIRE and FrechetCellFilter, step by step, and against minima in
closed form, with a Morse potential between all atoms and images within reach."""

import dataclasses

import ase
import ase.build
import ase.filters
import ase.optimize
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from scipy.optimize import minimize_scalar

from crystal_diffusion_jax.potentials import fire

DEPTH, STIFFNESS, LENGTH = 0.4, 2.0, 2.6  # eV, 1/A, A
REACH = 2  # images in each direction
IMAGES = np.stack(np.meshgrid(*[np.arange(-REACH, REACH + 1)] * 3), axis=-1).reshape(-1, 3)


def energy(lattice: jax.Array, coords: jax.Array, strain: jax.Array) -> jax.Array:
    """Of one crystal with Cartesian coordinates, in eV, strained."""
    deform = jnp.eye(3) + strain
    difference = coords[None] - coords[:, None] + (IMAGES @ lattice)[:, None, None]
    itself = jnp.all(IMAGES == 0, axis=1)[:, None, None] & jnp.eye(len(coords), dtype=bool)
    # Apart, as the derivative of a length of zero is not defined.
    difference = jnp.where(itself[..., None], 100.0, difference) @ deform
    distance = jnp.linalg.norm(difference, axis=-1)
    attraction = jnp.exp(-STIFFNESS * (distance - LENGTH))
    return DEPTH / 2 * jnp.sum(attraction**2 - 2 * attraction)


@jax.jit
def evaluate(lattice: jax.Array, frac_coords: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Energy, forces and stress of one crystal."""
    value, (gradient, by_strain) = jax.value_and_grad(energy, argnums=(1, 2))(
        lattice, frac_coords @ lattice, jnp.zeros((3, 3))
    )
    return value, -gradient, by_strain / jnp.abs(jnp.linalg.det(lattice))


class Morse(Calculator):
    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012, ASE's own

    def calculate(self, atoms=None, properties=(), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        value, forces, stress = evaluate(
            self.atoms.cell.array, self.atoms.get_scaled_positions(wrap=False)
        )
        self.results = {
            "energy": float(value),
            "forces": np.asarray(forces),
            "stress": full_3x3_to_voigt_6_stress(np.asarray(stress)),
        }


@dataclasses.dataclass
class Path:
    lattice: np.ndarray  # [steps + 1, crystals, 3, 3]
    frac_coords: np.ndarray  # [steps + 1, atoms, 3]
    inertia: fire.Inertia  # at the end


@jax.jit
def advance(
    frame: fire.Frame,
    lattice: jax.Array,
    frac_coords: jax.Array,
    inertia: fire.Inertia,
    forces: jax.Array,
    stress: jax.Array,
) -> tuple[jax.Array, jax.Array, fire.Inertia]:
    force = fire.generalised_forces(frame, inertia, lattice, forces, stress)
    move, inertia = fire.step(frame, inertia, force, jnp.ones(len(lattice), bool))
    return *fire.moved(frame, inertia, frac_coords, move), inertia


def relax(crystals: list[ase.Atoms], steps: int, fixed_cell: bool = False) -> Path:
    """Steps of FIRE on all crystals together."""
    sizes = [len(atoms) for atoms in crystals]
    lattice = jnp.asarray([atoms.cell.array for atoms in crystals])
    frac_coords = jnp.concatenate([atoms.get_scaled_positions(wrap=False) for atoms in crystals])
    frame = fire.Frame(
        crystal=jnp.repeat(jnp.arange(len(sizes)), jnp.asarray(sizes)),
        num_atoms=jnp.asarray(sizes, float),
        lattice=lattice,
        inverse=jnp.linalg.inv(lattice),
    )
    inertia = fire.at_rest(sum(sizes), len(sizes))
    path = [(lattice, frac_coords)]
    for _ in range(steps):
        parts = jnp.split(frac_coords, np.cumsum(sizes)[:-1])
        results = [evaluate(*crystal) for crystal in zip(lattice, parts, strict=True)]
        forces = jnp.concatenate([result[1] for result in results])
        stress = jnp.stack([result[2] for result in results]) * (not fixed_cell)
        lattice, frac_coords, inertia = advance(
            frame, lattice, frac_coords, inertia, forces, stress
        )
        path.append((lattice, frac_coords))
    lattices, coords = zip(*path, strict=True)
    return Path(np.stack(lattices), np.stack(coords), inertia)


def rattled(atoms: ase.Atoms, seed: int, strain: float = 0.05, shift: float = 0.15) -> ase.Atoms:
    """A strained and sheared copy with atoms moved at random."""
    rng = np.random.default_rng(seed)
    copy = atoms.copy()
    copy.set_cell(copy.cell.array @ (np.eye(3) + rng.normal(0, strain, (3, 3))), scale_atoms=True)
    copy.positions += rng.normal(0, shift, (len(copy), 3))
    return copy


def starts() -> list[ase.Atoms]:
    """One to eight atoms, a left-handed cell, and atoms outside their cell."""
    cubic = ase.build.bulk("Cu", "fcc", a=4.0, cubic=True)
    mirrored = rattled(cubic, seed=1)
    mirrored.set_cell(mirrored.cell.array[[1, 0, 2]])
    outside = rattled(ase.build.bulk("Cu", "hcp", a=2.7, c=4.3), seed=2)
    outside.positions += 3 * outside.cell.array[0]
    primitive = ase.build.bulk("Cu", "fcc", a=3.3)
    return [
        rattled(primitive, seed=0),
        mirrored,
        outside,
        rattled(ase.build.bulk("Cu", "diamond", a=6.0, cubic=True), seed=3),
    ]


@pytest.fixture
def double_precision():
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("fixed_cell", [False, True])
def test_the_path_is_that_of_ase(fixed_cell: bool) -> None:
    steps = 25
    path = relax(starts()[:3], steps, fixed_cell)
    first_atom = 0
    for index, atoms in enumerate(starts()[:3]):
        atoms.calc = Morse()
        target = atoms if fixed_cell else ase.filters.FrechetCellFilter(atoms)
        optimizer = ase.optimize.FIRE(target, logfile=None)
        expected = [
            (atoms.cell.array.copy(), atoms.get_scaled_positions(wrap=False))
            for _ in optimizer.irun(fmax=0.0, steps=steps)
        ]
        lattices, coords = map(np.stack, zip(*expected, strict=True))
        own = slice(first_atom, first_atom := first_atom + len(atoms))
        assert np.abs(lattices - lattices[0]).max() > 0.05 or fixed_cell
        np.testing.assert_allclose(path.lattice[:, index], lattices, rtol=0, atol=1e-8)
        np.testing.assert_allclose(path.frac_coords[:, own], coords, rtol=0, atol=1e-8)


def fcc_minimum() -> tuple[float, float]:
    """Lattice constant and energy per atom, by the sum over the lattice."""
    images = np.stack(np.meshgrid(*[np.arange(-9, 10)] * 3), axis=-1).reshape(-1, 3)
    vectors = images @ np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    lengths = np.linalg.norm(vectors[np.any(vectors, axis=1)], axis=1)

    def at(constant: float) -> float:
        attraction = np.exp(-STIFFNESS * (constant * lengths - LENGTH))
        return DEPTH / 2 * float(np.sum(attraction**2 - 2 * attraction))

    found = minimize_scalar(at, bounds=(3.0, 4.5), method="bounded", options={"xatol": 1e-10})
    return found.x, found.fun


def test_a_strained_crystal_finds_its_lattice_constant() -> None:
    constant, lowest = fcc_minimum()
    start = rattled(ase.build.bulk("Cu", "fcc", a=1.05 * constant, cubic=True), seed=4)
    path = relax([start], steps=300)
    value, forces, stress = evaluate(path.lattice[-1, 0], path.frac_coords[-1])
    assert float(value) / 4 == pytest.approx(lowest, abs=1e-4)
    gram = path.lattice[-1, 0] @ path.lattice[-1, 0].T
    np.testing.assert_allclose(gram, constant**2 * np.eye(3), atol=1e-2)
    assert np.abs(forces).max() < 1e-3
    assert np.abs(stress).max() < 1e-4


def test_with_a_fixed_cell_atoms_return_to_their_sites_in_it() -> None:
    perfect = ase.build.bulk("Cu", "fcc", a=3.7, cubic=True)
    path = relax([rattled(perfect, seed=5, strain=0.0)], steps=300, fixed_cell=True)
    np.testing.assert_array_equal(path.lattice[-1], path.lattice[0])
    offset = path.frac_coords[-1] - perfect.get_scaled_positions()
    np.testing.assert_allclose(offset - offset[0], 0.0, atol=1e-4)


def test_the_path_of_a_crystal_does_not_depend_on_the_others() -> None:
    crystals = starts()
    together = relax(crystals, steps=20)
    first_atom = 0
    for index, atoms in enumerate(crystals):
        alone = relax([atoms], steps=20)
        own = slice(first_atom, first_atom := first_atom + len(atoms))
        np.testing.assert_allclose(together.lattice[:, index], alone.lattice[:, 0], atol=2e-5)
        np.testing.assert_allclose(together.frac_coords[:, own], alone.frac_coords, atol=2e-5)


def test_permuting_atoms_permutes_the_path() -> None:
    atoms = starts()[3]
    order = np.random.default_rng(0).permutation(len(atoms))
    path, permuted = relax([atoms], steps=20), relax([atoms[order]], steps=20)
    np.testing.assert_allclose(permuted.lattice, path.lattice, atol=2e-5)
    np.testing.assert_allclose(permuted.frac_coords, path.frac_coords[:, order], atol=2e-5)


def test_a_crystal_that_does_not_move_keeps_its_state_whatever_its_forces() -> None:
    lattice = jnp.stack([4 * jnp.eye(3)] * 2)
    crystal = jnp.array([0, 0, 1])
    frame = fire.Frame(crystal, jnp.array([2.0, 1.0]), lattice, jnp.linalg.inv(lattice))
    before = fire.at_rest(3, 2)
    nothing_known = jnp.full((3, 3), jnp.nan).at[2].set(0.1)
    force = fire.Variables(nothing_known, jnp.zeros((2, 3, 3)).at[0].set(jnp.nan))
    move, after = fire.step(frame, before, force, jnp.array([False, True]))
    np.testing.assert_array_equal(move.atoms[:2], 0)
    np.testing.assert_array_equal(move.cells[0], 0)
    assert jax.tree.all(jax.tree.map(lambda leaf: bool(jnp.isfinite(leaf).all()), (move, after)))
    assert after.steps.tolist() == [0, 1]
    assert np.linalg.norm(move.atoms[2]) > 0
