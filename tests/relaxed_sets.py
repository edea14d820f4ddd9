"""Small sets of crystals for tests of `relax`, with ASE's EMT as the potential."""

from pathlib import Path

from ase.build import bulk
from pymatgen.core import Lattice, Structure

from crystal_diffusion_jax.structures.conversion import from_ase
from crystal_diffusion_jax.structures.reading import Inputs

EMT = "ase:ase.calculators.emt.EMT"
METALS = ("Cu", "Al", "Ni", "Au", "Ag", "Pd")


def metal(seed: int) -> Structure:
    """Four rattled atoms of a stretched fcc metal."""
    atoms = bulk(METALS[seed % len(METALS)], cubic=True)
    atoms.rattle(0.1, seed=seed)
    atoms.set_cell(atoms.cell * 1.03, scale_atoms=True)
    return from_ase(atoms)


def metals(count: int) -> Inputs:
    """So many metals as read from CIFs m0.cif, m1.cif, ..."""
    names = [f"m{seed}.cif" for seed in range(count)]
    return Inputs([metal(seed) for seed in range(count)], names, {})


def write_cifs(folder: Path, count: int) -> Path:
    """A folder of metals, of one with an element that EMT does not know, and of no CIF at all."""
    folder.mkdir(parents=True)
    for name, structure in zip(metals(count).names, metals(count).structures, strict=True):
        assert structure is not None
        (folder / name).write_text(structure.to(fmt="cif"))
    iron = Structure(Lattice.cubic(2.87), ["Fe", "Fe"], [[0.0] * 3, [0.5] * 3])
    (folder / "z1.cif").write_text(iron.to(fmt="cif"))
    (folder / "z2.cif").write_text("data_nothing\n")
    return folder
