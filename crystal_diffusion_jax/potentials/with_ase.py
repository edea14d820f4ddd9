"""Relaxation with any ASE calculator, one crystal at a time in each worker process.

The calculator is named by its import path, as in `ase:mace.calculators.MACECalculator`, and made
without arguments. Atoms and cell move by ASE's FIRE, through `FrechetCellFilter`.
"""

import functools
import importlib
import inspect
import math
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ase
import ase.units
import numpy as np
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from pymatgen.core import Structure
from tqdm import tqdm

from crystal_diffusion_jax.errors import UserError, did_you_mean, printable
from crystal_diffusion_jax.potentials.relaxation import (
    LARGEST_VOLUME_RATIO,
    MAX_STRESS,
    Relaxation,
    RelaxSettings,
    failed,
)
from crystal_diffusion_jax.runtime.workers import TaskFailure, Workers
from crystal_diffusion_jax.structures.conversion import (
    array_defect,
    restore_structure,
    to_ase,
    wrap_array,
)

PREFIX = "ase:"
# Seconds for one crystal: 500 steps of 7 s. A calculator that hangs costs this crystal only.
TIME_LIMIT = 3600.0
_MAX_REASON = 300  # characters of a calculator's own message


def check(settings: RelaxSettings) -> None:
    """Checks in a worker process that the calculator can be made and has what is needed.

    Raises:
      UserError: it cannot, or has not.
    """
    with Workers(_problem, TIME_LIMIT, num_workers=1) as workers:
        (problem,) = workers.map([settings])
    if isinstance(problem, TaskFailure):
        problem = f"cannot be loaded: it {problem.reason}"
    if problem:
        raise UserError(f"--potential={settings.potential} {problem}")


def relax(
    structures: Iterable[Structure],
    settings: RelaxSettings,
    progress: bool = True,
    total: int | None = None,
) -> Iterator[tuple[int, Relaxation]]:
    """Relaxes crystals on all cores.

    Args:
      structures: the crystals.
      settings: after `check`.
      progress: show a progress bar on stderr.
      total: number of crystals, for the bar.

    Yields:
      Index and relaxation of each crystal, as they finish. What the calculator raises is the
      crystal's failure.
    """
    with Workers(functools.partial(_relax_one, settings), TIME_LIMIT) as workers:
        finished = tqdm(
            workers.map_as_finished(structures), "relaxing", total, disable=not progress
        )
        for index, outcome in finished:
            if isinstance(outcome, TaskFailure):
                outcome = failed(f"the calculator gave up: {outcome.reason}")
            yield index, outcome


def _relax_one(settings: RelaxSettings, structure: Structure) -> Relaxation:
    if not structure.is_ordered:
        return failed("partial occupancy")
    if defect := array_defect(structure.lattice.matrix, structure.frac_coords):
        return failed(defect)
    atoms = to_ase(structure)
    initial, steps = math.nan, 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            atoms.calc = _calculator(settings.potential)
            initial = _energy_per_atom(atoms)
            movable = atoms if settings.fixed_cell else FrechetCellFilter(atoms)
            optimizer = FIRE(movable, logfile=None)
            # Never converged by ASE's own criterion, which mixes forces and stress.
            for _ in optimizer.irun(fmax=0.0, steps=settings.max_steps):
                steps = optimizer.nsteps
                converged = _is_converged(atoms, settings)
                if problem := _exploded(structure, atoms):
                    return failed(problem, initial, steps)
                if converged:
                    break
            energy = _energy_per_atom(atoms)
            moments = _magnetic_moments(atoms)
    except Exception as error:  # a calculator can raise anything
        message = printable(f"{type(error).__name__}: {error}", _MAX_REASON)
        return failed(f"the calculator failed: {message}", initial, steps)
    relaxed = restore_structure(
        np.array(atoms.cell),
        wrap_array(atoms.get_scaled_positions(wrap=False)),
        atoms.numbers,
    )
    return Relaxation(
        structure=relaxed if steps else structure,
        initial_energy_per_atom=initial,
        energy_per_atom=energy,
        steps=steps,
        converged=converged,
        magnetic_moments=moments,
        failure=None,
    )


def _energy_per_atom(atoms: ase.Atoms) -> float:
    energy = float(atoms.get_potential_energy()) / len(atoms)
    if not math.isfinite(energy):
        raise ValueError("the energy is not a finite number")
    return energy


def _is_converged(atoms: ase.Atoms, settings: RelaxSettings) -> bool:
    largest = np.linalg.norm(atoms.get_forces(), axis=-1).max()
    stress = 0.0 if settings.fixed_cell else np.abs(atoms.get_stress()).max()
    if not math.isfinite(largest + stress):
        raise ValueError("forces or stress are not finite numbers")
    return bool(largest < settings.fmax and stress < MAX_STRESS * ase.units.GPa)


def _exploded(structure: Structure, atoms: ase.Atoms) -> str | None:
    """Why the atoms are no crystal any more."""
    if defect := array_defect(np.array(atoms.cell), atoms.positions):
        return f"exploded: {defect}"
    ratio = atoms.get_volume() / structure.volume
    if not 1 / LARGEST_VOLUME_RATIO < ratio < LARGEST_VOLUME_RATIO:
        return f"exploded: the volume has changed by a factor of {ratio:.2g}"
    return None


def _magnetic_moments(atoms: ase.Atoms) -> np.ndarray:
    """[N] in Bohr magnetons; NaN unless the calculator has one for each atom."""
    moments = np.asarray(atoms.calc.results.get("magmoms", np.nan), np.float64)
    return moments if moments.shape == (len(atoms),) else np.full(len(atoms), np.nan)


def _path(potential: str) -> tuple[str, str]:
    """Module and class of "ase:module.Class"."""
    module, _, name = potential.removeprefix(PREFIX).rpartition(".")
    return module, name


def _import(module: str) -> Any:
    """Imports a calculator's module, in a worker."""
    # A class of the user's own, as `python -m` finds it and the console script would not.
    sys.path.append(str(Path.cwd()))
    return importlib.import_module(module)


@functools.cache
def _calculator(potential: str) -> Any:
    """The calculator, made once in each worker."""
    module, name = _path(potential)
    return getattr(_import(module), name)()


def _problem(settings: RelaxSettings) -> str | None:
    """What is wrong with a calculator, to follow its name in a sentence; None if nothing is."""
    module, name = _path(settings.potential)
    if not module:
        return f"lacks the module: give {PREFIX}module.Class, as in {PREFIX}ase.calculators.emt.EMT"
    try:
        found = vars(_import(module))
    except Exception as error:
        said = printable(f"{type(error).__name__}: {error}", _MAX_REASON)
        return f"cannot be imported ({said}): install its package, or correct the path"
    if not inspect.isclass(found.get(name)):
        classes = [key for key, value in found.items() if inspect.isclass(value)]
        near = did_you_mean(name, classes)
        return f"does not exist: {module} has no class {printable(name)}{near}"
    try:
        calculator = _calculator(settings.potential)
    except Exception as error:
        said = printable(f"{type(error).__name__}: {error}", _MAX_REASON)
        return f"cannot be made without arguments ({said}): give a class of yours that can"
    known = getattr(calculator, "implemented_properties", None)
    if known is None or not hasattr(calculator, "get_property"):
        return "is not an ASE calculator"
    if "stress" not in known and not settings.fixed_cell:
        return "computes no stress, by which the cell is relaxed: add --fixed_cell"
    return None
