"""potentials/relax.py: what comes out, whatever the batches, against ASE and single evaluations."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import ase.filters
import ase.optimize
import jax.numpy as jnp
import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystal_diffusion_jax.potentials import energies, packing, relax, relaxation
from crystal_diffusion_jax.potentials.batching import AtomBatch
from crystal_diffusion_jax.potentials.chgnet import Outputs
from crystal_diffusion_jax.potentials.neighbours import Capacity, structure_graph
from crystal_diffusion_jax.potentials.relaxation import Relaxation, RelaxSettings
from crystal_diffusion_jax.potentials.rounds import Limits
from crystal_diffusion_jax.structures.conversion import to_ase
from tests import toy_potential
from tests.potential_crystals import parameters

FORCE, STRESS = 0.01, 0.003  # eV/A, eV/A^3


def limits(steps: int = 400, fixed_cell: bool = False) -> Limits:
    return Limits(FORCE, np.inf if fixed_cell else STRESS, steps, fixed_cell)


def run(crystals: Iterable[Structure], limits: Limits) -> list[Relaxation]:
    """In the order of the input."""
    found = dict(
        relax.relax_with(toy_potential.outputs, toy_potential.PARAMETERS, crystals, limits)
    )
    return [found[index] for index in range(len(found))]


def fcc(num_cells: int, edge: float = 3.7) -> Structure:
    structure = Structure.from_spacegroup("Fm-3m", Lattice.cubic(edge), ["Cu"], [[0, 0, 0]])
    structure.make_supercell([num_cells, 1, 1])
    return structure


def rattled(structure: Structure, seed: int, strain: float = 0.03, shift: float = 0.1) -> Structure:
    """A strained and sheared copy with atoms moved at random."""
    rng = np.random.default_rng(seed)
    cell = structure.lattice.matrix @ (np.eye(3) + rng.normal(0, strain, (3, 3)))
    moves = rng.normal(0, shift, (len(structure), 3)) @ np.linalg.inv(cell)
    return Structure(Lattice(cell), structure.species, structure.frac_coords + moves)


def crystals(count: int) -> list[Structure]:
    """Of 1, 4, 8 and 12 atoms."""
    sizes = [fcc(1).get_primitive_structure(), fcc(1), fcc(2), fcc(3)]
    return [rattled(sizes[seed % 4], seed) for seed in range(count)]


@pytest.fixture(autouse=True)
def _one_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly all batches are alike, so that little is compiled."""
    monkeypatch.setattr(packing, "_ROWS_ON_CPU", 2048)


@pytest.fixture(scope="module")
def relaxed() -> list[Relaxation]:
    return run(crystals(12), limits())


def test_everything_converges_downhill(relaxed: list[Relaxation]) -> None:
    for given, result in zip(crystals(12), relaxed, strict=True):
        assert result.failure is None
        assert result.converged
        assert result.steps > 0
        assert result.energy_per_atom < result.initial_energy_per_atom
        assert result.structure is not None
        assert result.structure.species == given.species
        np.testing.assert_array_equal(result.magnetic_moments, given.atomic_numbers)


@pytest.mark.parametrize(("index", "fixed_cell"), [(1, False), (3, True)])
def test_what_comes_out_is_what_ase_finds(
    relaxed: list[Relaxation], index: int, fixed_cell: bool
) -> None:
    given = crystals(4)[index]
    result = run([given], limits(fixed_cell=True))[0] if fixed_cell else relaxed[index]
    atoms = to_ase(given)
    atoms.calc = toy_potential.BondCalculator()
    initial = atoms.get_potential_energy()
    target = atoms if fixed_cell else ase.filters.FrechetCellFilter(atoms)
    optimizer = ase.optimize.FIRE(target, logfile=None)
    # ASE's own criterion is in the frame of the variables.
    for _ in optimizer.irun(fmax=0.0, steps=400):
        force = np.linalg.norm(atoms.get_forces(), axis=1).max()
        if force < FORCE and (fixed_cell or np.abs(atoms.get_stress()).max() < STRESS):
            break
    assert result.initial_energy_per_atom == pytest.approx(initial / len(atoms), abs=1e-5)
    assert result.energy_per_atom == pytest.approx(
        atoms.get_potential_energy() / len(atoms), abs=2e-5
    )
    assert result.structure is not None
    np.testing.assert_allclose(result.structure.lattice.matrix, atoms.cell.array, atol=2e-3)
    np.testing.assert_allclose(
        result.structure.frac_coords, atoms.get_scaled_positions(wrap=False), atol=1e-3
    )


def test_a_crystal_relaxes_alone_as_in_company(relaxed: list[Relaxation]) -> None:
    for index in (1, 6):
        (alone,) = run([crystals(12)[index]], limits())
        assert alone.energy_per_atom == pytest.approx(relaxed[index].energy_per_atom, abs=1e-5)
        one, other = alone.structure, relaxed[index].structure
        assert one is not None
        assert other is not None
        # Rounding grows over the steps, and may decide after which of them the forces are small.
        np.testing.assert_allclose(one.lattice.matrix, other.lattice.matrix, atol=2e-3)
        np.testing.assert_allclose(one.frac_coords, other.frac_coords, atol=1e-3)


def test_a_relaxed_crystal_takes_no_steps_and_stays_the_same(relaxed: list[Relaxation]) -> None:
    given = [result.structure for result in relaxed[:4] if result.structure]
    # Converged is below the limit; float32 may see a force at the limit on its other side.
    wider = Limits(1.1 * FORCE, 1.1 * STRESS, 400, False)
    for before, again in zip(given, run(given, wider), strict=True):
        assert again.steps == 0
        assert again.converged
        assert again.structure is before
        assert again.energy_per_atom == again.initial_energy_per_atom


def test_final_energies_are_those_of_the_final_crystals(relaxed: list[Relaxation]) -> None:
    structures = [result.structure for result in relaxed if result.structure]
    for result, single in zip(relaxed, run(structures, limits(steps=0)), strict=True):
        assert single.energy_per_atom == pytest.approx(result.energy_per_atom, abs=1e-6)


def test_no_steps_give_energies_only() -> None:
    given = crystals(4)
    for structure, result in zip(given, run(given, limits(steps=0)), strict=True):
        assert result.structure is structure
        assert result.steps == 0
        assert result.energy_per_atom == result.initial_energy_per_atom
        assert not result.converged


def test_a_crystal_without_enough_steps_says_so() -> None:
    (result,) = run([rattled(fcc(2), seed=0)], limits(steps=7))
    assert result.steps == 7
    assert not result.converged
    assert result.failure is None
    assert result.structure is not None
    assert result.energy_per_atom < result.initial_energy_per_atom


def test_with_a_fixed_cell_only_atoms_move() -> None:
    given = rattled(fcc(2), seed=3)
    (result,) = run([given], limits(fixed_cell=True))
    assert result.converged
    assert result.structure is not None
    np.testing.assert_array_equal(result.structure.lattice.matrix, given.lattice.matrix)
    assert np.abs(result.structure.frac_coords - given.frac_coords).max() > 0.01


def copper(lattice: np.ndarray, frac_coords: list[list[float]]) -> Structure:
    return Structure(Lattice(lattice), ["Cu"] * len(frac_coords), frac_coords)


HOPELESS = {
    "isolated atom": copper(20 * np.eye(3), [[0, 0, 0]]),
    "non-finite numbers": copper(np.full((3, 3), np.nan), [[0, 0, 0]]),
    "too dense": copper(0.5 * np.eye(3), [[0, 0, 0]]),
    "atoms in one place": copper(4 * np.eye(3), [[0, 0, 0], [0, 0, 0]]),
    "partial occupancy": Structure(Lattice.cubic(3), [{"Cu": 0.5}], [[0, 0, 0]]),
    "element unknown to the potential": Structure(Lattice.cubic(3), ["Cm"], [[0, 0, 0]]),
    # Grows to 2.1 A.
    "exploded": copper(1.4 * np.eye(3), [[0, 0, 0]]),
}


def test_failures_are_named_and_stop_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaxation, "LARGEST_VOLUME_RATIO", 2.0)
    good = rattled(fcc(1), seed=1)
    given = [structure for bad in HOPELESS.values() for structure in (bad, good)]
    results = run(given, limits())
    for reason, result in zip(HOPELESS, results[::2], strict=True):
        assert result.failure is not None
        assert result.failure.startswith(reason)
        assert result.structure is None
        assert np.isnan(result.energy_per_atom)
        assert not result.converged
        assert len(result.magnetic_moments) == 0
    assert all(result.converged for result in results[1::2])


def test_a_potential_without_an_answer_is_a_failure() -> None:
    broken = toy_potential.PARAMETERS | {"depth": np.nan}
    ((_, result),) = relax.relax_with(toy_potential.outputs, broken, [fcc(1)], limits())
    assert result.failure == "the potential predicts no finite energy or forces"


def no_forces(parameters: dict[str, Any], batch: AtomBatch) -> Outputs:
    out = toy_potential.outputs(parameters, batch)
    return dataclasses.replace(out, forces=jnp.full_like(out.forces, np.nan))


def test_an_energy_without_forces_is_a_failure_and_no_endless_rounds() -> None:
    ((_, result),) = relax.relax_with(no_forces, toy_potential.PARAMETERS, [fcc(1)], limits())
    assert result.failure == "the potential predicts no finite energy or forces"
    assert result.steps == 0


def test_nothing_but_failures() -> None:
    results = run([HOPELESS["isolated atom"]] * 3, limits())
    assert [result.failure is None for result in results] == [False] * 3
    assert run([], limits()) == []


def test_crystals_are_read_as_they_are_needed() -> None:
    read = []

    def endless() -> Iterator[Structure]:
        for given in itertools.cycle(crystals(4)):
            read.append(given)
            yield given

    found = relax.relax_with(toy_potential.outputs, toy_potential.PARAMETERS, endless(), limits())
    finished = {index for index, _ in itertools.islice(found, 150)}
    assert len(finished) == 150
    assert len(read) < 250
    # A long path takes a few times as many steps as a short one.
    assert set(range(75)) <= finished


def test_a_large_crystal_has_a_larger_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    large = fcc(4)
    large.make_supercell([1, 2, 1])
    given = [*crystals(11), rattled(large, seed=0)]
    assert packing.rows(structure_graph(given[-1]).size) > 4096
    results = run(given, limits())
    assert all(result.converged for result in results)
    monkeypatch.setattr(packing, "LARGEST", Capacity(100, 100, 2000, 500, 3000))
    results = run(given, limits(steps=0))
    assert [result.failure is None for result in results] == [True] * 11 + [False]
    assert str(results[-1].failure).startswith("too many bonds")


@pytest.mark.slow
def test_the_potential_relaxes_to_the_energy_that_it_predicts() -> None:
    parameters()
    given = [rattled(fcc(1), seed=0), rattled(fcc(1), seed=1)]
    settings = RelaxSettings(max_steps=100)
    results = dict(relax.relax(given, settings, progress=False))
    structures = [relaxed for index in range(2) if (relaxed := results[index].structure)]
    for index, evaluated in enumerate(energies.evaluate_all(structures, progress=False)):
        assert isinstance(evaluated, energies.Evaluated)
        assert results[index].converged
        assert results[index].energy_per_atom == pytest.approx(evaluated.energy_per_atom, abs=1e-5)
        assert np.linalg.norm(evaluated.forces, axis=1).max() < settings.fmax
        assert np.abs(evaluated.stress).max() < relax.MAX_STRESS
        np.testing.assert_allclose(
            results[index].magnetic_moments, evaluated.magnetic_moments, atol=1e-4
        )
