"""potentials/with_ase.py: relaxation with ASE calculators, and calculators that misbehave."""

import re

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from pymatgen.core import Lattice, Structure

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.potentials import with_ase
from crystal_diffusion_jax.potentials.drivers import driver
from crystal_diffusion_jax.potentials.relaxation import MAX_STRESS, Relaxation, RelaxSettings
from crystal_diffusion_jax.structures.conversion import from_ase, to_ase

EMT_PATH = "ase:ase.calculators.emt.EMT"
ODD = "ase:tests.odd_calculators."
GPA = 160.21766208


def rattled(symbol: str, seed: int = 0) -> Structure:
    """Four atoms of a stretched fcc metal, moved by 0.1 A."""
    atoms = bulk(symbol, cubic=True)
    atoms.rattle(0.1, seed=seed)
    atoms.set_cell(atoms.cell * 1.03, scale_atoms=True)
    return from_ase(atoms)


def relax(structures: list[Structure], settings: RelaxSettings) -> list[Relaxation]:
    found = dict(driver(settings)(structures, settings, progress=False))
    return [found[index] for index in range(len(structures))]


pytestmark = pytest.mark.usefixtures("in_this_process")


def test_a_metal_relaxes_to_the_lowest_point_of_its_energy_curve() -> None:
    (relaxed,) = relax([rattled("Cu")], RelaxSettings(EMT_PATH, fmax=0.005))
    lengths = np.linspace(3.55, 3.65, 41)
    energies = []
    for length in lengths:
        atoms = bulk("Cu", a=length)
        atoms.calc = EMT()
        energies.append(atoms.get_potential_energy())
    curve = np.polynomial.Polynomial.fit(lengths, energies, 4)
    (lowest,) = (float(x.real) for x in curve.deriv().roots() if 3.55 < float(x.real) < 3.65)
    assert relaxed.converged
    assert relaxed.failure is None
    assert relaxed.structure is not None
    assert relaxed.structure.volume / 4 == pytest.approx(lowest**3 / 4, rel=0.01)
    assert relaxed.energy_per_atom == pytest.approx(curve(lowest), abs=1e-3)
    assert relaxed.initial_energy_per_atom > relaxed.energy_per_atom + 0.05


def test_two_atoms_stop_where_their_pair_potential_is_lowest() -> None:
    box = Lattice.cubic(12.0)
    pair = Structure(box, ["Ar", "Ar"], [[4.0, 0, 0], [5.3, 0, 0]], coords_are_cartesian=True)
    path = "ase:ase.calculators.lj.LennardJones"
    (relaxed,) = relax([pair], RelaxSettings(path, fixed_cell=True, fmax=1e-4))
    assert relaxed.structure is not None
    np.testing.assert_array_equal(relaxed.structure.lattice.matrix, box.matrix)
    # sigma = epsilon = 1; ASE shifts the energy to 0 at its cutoff of 3.
    assert relaxed.structure.get_distance(0, 1) == pytest.approx(2 ** (1 / 6), abs=1e-4)
    shift = 4 * (3.0**-12 - 3.0**-6)
    assert relaxed.energy_per_atom == pytest.approx((-1 - shift) / 2, abs=1e-6)


@pytest.mark.parametrize("symbol", ["Cu", "Al", "Ni", "Au"])
@pytest.mark.parametrize("fixed_cell", [False, True])
def test_converged_is_what_another_calculator_says_of_the_result(
    symbol: str, fixed_cell: bool
) -> None:
    settings = RelaxSettings(EMT_PATH, fixed_cell)
    (relaxed,) = relax([rattled(symbol)], settings)
    assert relaxed.structure is not None
    atoms = to_ase(relaxed.structure)
    atoms.calc = EMT()
    assert relaxed.converged
    assert np.linalg.norm(atoms.get_forces(), axis=-1).max() < settings.fmax
    assert (np.abs(atoms.get_stress()).max() * GPA < MAX_STRESS) is not fixed_cell
    assert relaxed.energy_per_atom == pytest.approx(atoms.get_potential_energy() / 4, abs=1e-9)


def test_no_step_gives_the_energy_of_the_crystal_as_it_is() -> None:
    crystal = rattled("Al")
    (found,) = relax([crystal], RelaxSettings(EMT_PATH, max_steps=0))
    atoms = to_ase(crystal)
    atoms.calc = EMT()
    assert found.structure == crystal
    assert (found.steps, found.converged) == (0, False)
    assert found.energy_per_atom == found.initial_energy_per_atom
    assert found.energy_per_atom == pytest.approx(atoms.get_potential_energy() / 4, abs=1e-12)


def test_too_few_steps_are_said_not_to_have_converged() -> None:
    (found,) = relax([rattled("Cu")], RelaxSettings(EMT_PATH, max_steps=3))
    assert (found.steps, found.converged, found.failure) == (3, False, None)


def test_magnetic_moments_are_kept_and_missing_ones_are_nan() -> None:
    (with_moments,) = relax([rattled("Cu")], RelaxSettings(f"{ODD}Constant"))
    np.testing.assert_array_equal(with_moments.magnetic_moments, [1, 2, 3, 4])
    (without,) = relax([rattled("Cu")], RelaxSettings(f"{ODD}WithoutStress", fixed_cell=True))
    assert without.converged  # a fixed cell needs no stress
    np.testing.assert_array_equal(without.magnetic_moments, [np.nan] * 4)


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("Exploding", "exploded: the volume has changed by a factor of"),
        ("Imploding", "exploded: the volume has changed by a factor of"),
        ("NotFinite", "the calculator failed: ValueError: the energy is not a finite number"),
        ("Raising", r"the calculator failed: PropertyNotImplementedError: nothing\\nat all"),
    ],
)
def test_what_goes_wrong_is_the_failure_of_the_crystal(name: str, failure: str) -> None:
    (found,) = relax([rattled("Cu")], RelaxSettings(ODD + name))
    assert found.failure is not None
    assert re.match(failure, found.failure)
    assert found.structure is None
    assert np.isnan(found.energy_per_atom)
    assert not found.converged


def test_an_element_that_the_calculator_does_not_know_fails_alone() -> None:
    iron = from_ase(bulk("Fe"))
    good, bad, also_good = relax([rattled("Cu"), iron, rattled("Al")], RelaxSettings(EMT_PATH))
    assert bad.failure == "the calculator failed: NotImplementedError: No EMT-potential for Fe"
    assert good.converged
    assert also_good.converged


MISTAKES = {
    "chgnt": "is neither chgnet nor ase:module.Class, an ASE calculator; did you mean chgnet",
    "ase:EMT": "lacks the module: give ase:module.Class, as in ase:ase.calculators.emt.EMT",
    "ase:no.such.Thing": "cannot be imported (ModuleNotFoundError: No module named 'no')",
    "ase:ase.calculators.emt.ETM": "ase.calculators.emt has no class ETM; did you mean EMT?",
    f"{ODD}NeedsArguments": "cannot be made without arguments (TypeError:",
    f"{ODD}NoCalculator": "is not an ASE calculator",
    f"{ODD}WithoutStress": "computes no stress, by which the cell is relaxed: add --fixed_cell",
}


@pytest.mark.parametrize("potential", MISTAKES)
def test_a_mistake_in_the_potential_is_one_sentence(potential: str) -> None:
    with pytest.raises(UserError, match=re.escape(MISTAKES[potential])) as caught:
        driver(RelaxSettings(potential))
    assert str(caught.value).startswith(f"--potential={potential} ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (RelaxSettings(fmax=0.0), "--fmax=0.0 must be at least"),
        (RelaxSettings(fmax=np.nan), "--fmax=nan must be at least"),
        (RelaxSettings(max_steps=-1), "--max_steps=-1 must be within 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: RelaxSettings, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        driver(settings)


OVERLAPPING = Structure(Lattice.cubic(3), ["Cu", "Cu"], [[0, 0, 0]] * 2)
TINY = Structure(Lattice.cubic(0.2), ["Cu"], [[0, 0, 0]])
NOT_A_NUMBER = Structure(Lattice.cubic(3), ["Cu"], [[np.nan, 0, 0]])
SHARED = Structure(Lattice.cubic(3), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]])


@pytest.mark.parametrize("calculator", [EMT, LennardJones])
@pytest.mark.parametrize("crystal", [OVERLAPPING, TINY, NOT_A_NUMBER, SHARED])
def test_impossible_crystals_are_named_failures(calculator: type, crystal: Structure) -> None:
    path = f"ase:{calculator.__module__}.{calculator.__name__}"
    (found,) = relax([crystal], RelaxSettings(path, max_steps=20))
    assert found.failure
    assert found.structure is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("Deadly", "the calculator gave up: ended its process"),
        ("Endless", "the calculator gave up: no result after 20 s"),
    ],
)
def test_a_crystal_that_hangs_or_ends_its_process_fails_alone(
    name: str, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The others need milliseconds.
    monkeypatch.setattr(with_ase, "TIME_LIMIT", 20.0)
    crystals = [rattled("Al"), rattled("Cu"), rattled("Ni")]
    first, bad, last = relax(crystals, RelaxSettings(ODD + name))
    assert bad.failure == failure
    assert first.converged
    assert last.converged
