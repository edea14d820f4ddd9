"""Relaxes crystals one by one with the published CHGNet and ASE's FIRE; `relaxation.py` starts it.

    OMP_NUM_THREADS=1 /path/to/venv/bin/python benchmarks/relaxation_reference.py request.json

Runs in an environment of its own with `pip install chgnet==0.4.2`, and imports nothing of this
project. The request is a JSON object: `crystals` (each with `lattice`, `frac_coords`,
`atomic_numbers`), `fmax` in eV/A, `stress_limit` in GPa, `max_steps`, `processes`. Prints a JSON
object. Processes load the network before the clock starts, and each takes the next crystal when it
has finished one.
"""

import contextlib
import importlib.metadata
import io
import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from ase.units import GPa
from chgnet.model import CHGNetCalculator

_PACKAGES = ("chgnet", "torch", "ase", "numpy")

_calculator: Any = None


def _load() -> None:
    global _calculator
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its device
        _calculator = CHGNetCalculator(use_device="cpu", on_isolated_atoms="error")


def _ready(seconds: float) -> None:
    time.sleep(seconds)  # long enough for each process to take one of these


def relax(task: tuple[dict[str, Any], float, float, int]) -> dict[str, Any]:
    """Relaxes one crystal, positions and cell, until forces and stress are below their limits.

    Args:
      task: crystal; limit of forces in eV/A; limit of the stress in GPa; steps at most.
    """
    crystal, fmax, stress_limit, max_steps = task
    begin = time.process_time()
    atoms = Atoms(
        numbers=crystal["atomic_numbers"],
        scaled_positions=crystal["frac_coords"],
        cell=crystal["lattice"],
        pbc=True,
        calculator=_calculator,
    )
    energies, converged = [], False
    optimizer = FIRE(FrechetCellFilter(atoms), logfile=None)
    # The filter's own gradient mixes forces and stress in units that depend on the cell, so the
    # limits are checked here.
    for _ in optimizer.irun(fmax=0.0, steps=max_steps):
        energies.append(float(atoms.get_potential_energy()) / len(atoms))
        force = np.linalg.norm(atoms.get_forces(), axis=1).max()
        stress = np.abs(atoms.get_stress(voigt=True)).max() / GPa
        if converged := bool(force < fmax and stress < stress_limit):
            break
    return {
        "initial_energy_per_atom": energies[0],
        "energy_per_atom": energies[-1],
        "steps": len(energies) - 1,
        "converged": converged,
        "processor_seconds": time.process_time() - begin,
        "lattice": atoms.cell.array.tolist(),
        "frac_coords": atoms.get_scaled_positions(wrap=False).tolist(),
    }


def _relax_or_reason(task: tuple[dict[str, Any], float, float, int]) -> dict[str, Any]:
    try:
        return relax(task)
    except Exception as error:  # an exploding cell fails in many ways
        return {"failure": f"{type(error).__name__}: {error}"[:200]}


def main() -> None:
    """Reads the request and prints the results in its order."""
    request = json.loads(Path(sys.argv[1]).read_text())
    limits = request["fmax"], request["stress_limit"], request["max_steps"]
    tasks = [(crystal, *limits) for crystal in request["crystals"]]
    num_processes = request["processes"]
    with multiprocessing.get_context("spawn").Pool(num_processes, _load) as pool:
        pool.map(_ready, [1.0] * num_processes, chunksize=1)
        begin = time.perf_counter()
        results = pool.map(_relax_or_reason, tasks, chunksize=1)
        seconds = time.perf_counter() - begin
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    print(json.dumps({"seconds": seconds, "versions": versions, "relaxations": results}))


if __name__ == "__main__":
    main()
