"""Relaxations per second, beside those of the published network with PyTorch and ASE.

    python -m benchmarks.relaxation --structures=samples/mp20_min --num=60 --out=relaxation.json \\
        --reference_python=/path/to/venv/bin/python

The environment of `--reference_python` needs `pip install chgnet==0.4.2`; without the flag only
this package is measured. The reference relaxes the same crystals one by one on the same cores, a
process for each core and one process with a thread for each core; the faster of the two counts.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Lattice, Structure

from benchmarks import tables
from benchmarks.session import process_memory_mb
from benchmarks.tables import Column
from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.errors import UserError, require_between
from crystal_diffusion_jax.potentials.relax import MAX_STRESS, relax
from crystal_diffusion_jax.potentials.relaxation import Relaxation, RelaxSettings
from crystal_diffusion_jax.runtime.devices import keep_freed_memory
from crystal_diffusion_jax.runtime.workers import num_cores
from crystal_diffusion_jax.structures.reading import read_structures

_REFERENCE = Path(__file__).with_name("relaxation_reference.py")
_PACKAGES = ("jax", "numpy", "ase")


def moved(
    structures: Sequence[Structure], rattle: float, strain: float, seed: int
) -> list[Structure]:
    """The crystals with normal noise on atoms and cells, as a start of relaxations.

    Args:
      structures: the crystals.
      rattle: standard deviation of each Cartesian coordinate, in Angstrom.
      strain: standard deviation of each component of a symmetric strain.
      seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    results = []
    for structure in structures:
        coords = structure.cart_coords + rng.normal(0.0, rattle, (len(structure), 3))
        frac_coords = structure.lattice.get_fractional_coords(coords)
        deformation = rng.normal(0.0, strain, (3, 3))
        deformation = np.eye(3) + (deformation + deformation.T) / 2
        lattice = Lattice(structure.lattice.matrix @ deformation)
        results.append(Structure(lattice, structure.species, frac_coords))
    return results


def ours(structures: Sequence[Structure], settings: RelaxSettings) -> dict[str, Any]:
    """Relaxes the crystals twice; only the first time compiles, or reads compiled programs."""
    seconds, processor_seconds = [], []
    for _ in range(2):
        begin, processor_begin = time.perf_counter(), time.process_time()
        finished: dict[int, Relaxation] = dict(relax(structures, settings, progress=False))
        seconds.append(time.perf_counter() - begin)
        processor_seconds.append(time.process_time() - processor_begin)
    return {
        "seconds_with_compilation": seconds[0],
        "seconds": seconds[1],
        "processor_seconds": processor_seconds[1],
        "peak_memory_mb": process_memory_mb(),
        "relaxations": [
            {
                "energy_per_atom": finished[index].energy_per_atom,
                "steps": finished[index].steps,
                "converged": finished[index].converged,
            }
            for index in range(len(structures))
        ],
    }


def reference(
    python: Path, structures: Sequence[Structure], settings: RelaxSettings, processes: int
) -> dict[str, Any]:
    """Relaxes the crystals with `relaxation_reference.py`, all cores shared by the processes.

    Raises:
      UserError: the environment cannot run it.
    """
    crystals = [
        {
            "lattice": structure.lattice.matrix.tolist(),
            "frac_coords": structure.frac_coords.tolist(),
            "atomic_numbers": [int(number) for number in structure.atomic_numbers],
        }
        for structure in structures
    ]
    request = {
        "crystals": crystals,
        "fmax": settings.fmax,
        "stress_limit": MAX_STRESS,
        "max_steps": settings.max_steps,
        "processes": processes,
    }
    threads = num_cores() // processes
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "request.json"
        path.write_text(json.dumps(request))
        try:
            finished = subprocess.run(
                [python, _REFERENCE, path],
                env=os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise UserError(
                f"--reference_python={python} cannot run the reference ({error}): give the Python "
                "of an environment with `pip install chgnet==0.4.2`."
            ) from error
    result = {"processes": processes, "threads": threads, **json.loads(finished.stdout)}
    relaxations = result["relaxations"]
    result["processor_seconds"] = sum(row.get("processor_seconds", 0.0) for row in relaxations)
    return result


def comparison(
    mine: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]
) -> dict[str, float | int]:
    """Differences of final energies in meV/atom, of the crystals that converged in both, if any."""
    differences = [
        1e3 * abs(here["energy_per_atom"] - there["energy_per_atom"])
        for here, there in zip(mine, theirs, strict=True)
        if here["converged"] and there.get("converged")
    ]
    counts: dict[str, float | int] = {
        "converged_in_both": len(differences),
        "converged_here": sum(here["converged"] for here in mine),
        "converged_there": sum(there.get("converged", False) for there in theirs),
    }
    if differences:
        counts["median_mev_per_atom"] = float(np.median(differences))
        counts["max_mev_per_atom"] = max(differences)
    return counts


def measure(
    structures: Sequence[Structure], settings: RelaxSettings, python: Path | None
) -> dict[str, Any]:
    """All figures of the benchmark, and what they were measured with."""
    cores = num_cores()
    report: dict[str, Any] = {
        "settings": asdict(settings),
        "cores": cores,
        "load_before": os.getloadavg()[0],
        "crystals": len(structures),
        "atoms": sum(map(len, structures)),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "ours": ours(structures, settings),
    }
    if python:
        report["reference"] = [
            reference(python, structures, settings, processes) for processes in sorted({1, cores})
        ]
        best = min(report["reference"], key=lambda row: row["seconds"])
        mine = report["ours"]
        report["ratio"] = best["seconds"] / mine["seconds"]
        report["ratio_with_compilation"] = best["seconds"] / mine["seconds_with_compilation"]
        report["energies"] = comparison(mine["relaxations"], best["relaxations"])
    return report


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    num = report["crystals"]
    rows = [{"name": "this package", **report["ours"]}]
    for run in report.get("reference", []):
        rows.append({"name": f"PyTorch and ASE, {run['processes']} x {run['threads']}", **run})
    columns: list[Column] = [
        ("processes x threads", lambda row: row["name"]),
        ("seconds", lambda row: f"{row['seconds']:.1f}"),
        ("crystals per second", lambda row: f"{num / row['seconds']:.3f}"),
        ("processor seconds per crystal", lambda row: f"{row['processor_seconds'] / num:.2f}"),
    ]
    lines = [
        f"{num} crystals, {report['atoms']} atoms, {report['cores']} cores",
        "",
        *tables.table(columns, rows),
    ]
    if energies := report.get("energies"):
        ratios = (
            f"{report['ratio']:.2f} times the better of the two "
            f"({report['ratio_with_compilation']:.2f} with compilation). Converged in both: "
            f"{energies['converged_in_both']}"
        )
        if energies["converged_in_both"]:
            ratios += (
                f"; their final energies differ by {energies['median_mev_per_atom']:.2f} meV/atom "
                f"(median), at most {energies['max_mev_per_atom']:.2f}"
            )
        lines += ["", f"{ratios}."]
    return "\n".join(lines)


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m benchmarks.relaxation", description=__doc__ or "")
    flags.add_argument("--structures", type=Path, required=True, help="crystals of any kind")
    flags.add_argument("--out", type=Path, required=True, help="JSON file to write")
    flags.add_argument("--num", type=int, default=60, help="the first so many that can be read")
    flags.add_argument("--rattle", type=float, default=0.0, help="noise on the atoms in Angstrom")
    flags.add_argument("--strain", type=float, default=0.0, help="noise on the cell")
    flags.add_argument("--seed", type=int, default=0, help="of this noise")
    flags.add_argument("--fmax", type=float, default=0.05, help="largest force at the end, in eV/A")
    flags.add_argument("--max_steps", type=int, default=500, help="of FIRE")
    flags.add_argument("--reference_python", type=Path, help="Python of an environment with chgnet")
    return flags


def main() -> None:
    """Entry point."""
    flags: argparse.Namespace = parser().parse_args()
    keep_freed_memory()  # as `relax` does
    require_between("num", flags.num, 1, np.inf)
    program.check_output(flags.out)
    readable = [s for s in read_structures(flags.structures).structures if s is not None]
    if not readable:
        raise UserError(f"--structures={flags.structures} has no crystal that can be read.")
    structures = moved(readable[: flags.num], flags.rattle, flags.strain, flags.seed)
    settings = RelaxSettings(fmax=flags.fmax, max_steps=flags.max_steps)
    report = measure(structures, settings, flags.reference_python)
    program.write_output(flags.out, json.dumps(report, indent=1) + "\n")
    print(table(report))


if __name__ == "__main__":
    program.run(main)
