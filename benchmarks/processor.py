"""How fast is everything on this processor?

    python -m benchmarks.processor --out=benchmarks/processors/NAME.json \\
        --reference_python=/path/to/venv/bin/python
    python -m benchmarks.processor --quick --out=quick.json
    python -m benchmarks.processor --tables

On idle cores it takes about twenty minutes and saves after every measurement. A report in
benchmarks/processors becomes part of benchmarks/README.md, which --tables makes anew from all of
them. The environment of --reference_python needs `pip install torch`; without the flag that part is
left out. GPUs and TPUs: `benchmarks.accelerator`.
"""

import argparse
import dataclasses
import json
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from benchmarks import machine, processor_tables, scoring, startup
from benchmarks.session import Measurement, Session
from benchmarks.speed import sampling_speed
from benchmarks.timing import REPEATS, matmul_peak, rate
from benchmarks.training_speed import EFFICIENT, FORMS, training_speed, with_width
from configs import perov5_cds
from crystal_diffusion_jax import config as config_module
from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.config import ADAM, ExperimentConfig
from crystal_diffusion_jax.data.buckets import batch_sizes
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime import devices
from crystal_diffusion_jax.runtime.files import replace_text
from crystal_diffusion_jax.runtime.workers import num_cores

_TORCH = Path(__file__).with_name("torch_reference.py")
_TORCH_LAYERS = 4


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the measurements.

    Attributes:
      product: rows of the square matrices whose products give the peak rate.
      widths: widths of the network.
      atoms: atoms per crystal in training.
      compared: of these, the widths and atoms at which the other forms are measured, too.
      batch_size: crystals of five atoms per training step, fewer if they are larger.
      call_flop: operations in a call that is timed, see `training_speed`.
      sampled: atoms per crystal and crystals at once in the sampler.
      starts: how often each command is started.
      first: crystals and steps of the first crystals of a process.
      smoke: a training run of ten steps instead of a hundred.
      scored: crystals whose bonds are searched.
    """

    product: int = 2048
    widths: tuple[int, ...] = (64, 128, 256, 512)
    atoms: tuple[int, ...] = (5, 10, 20, 52)
    compared: tuple[tuple[int, ...], tuple[int, ...]] = ((64, 256), (5, 10, 20))
    batch_size: int = 256
    call_flop: float = 4e10
    sampled: tuple[tuple[int, int], ...] = ((5, 200), (20, 48))
    starts: int = 3
    first: tuple[int, int] = (20, 50)
    smoke: bool = False
    scored: int = 100


QUICK = Sizes(128, (16,), (3, 4), ((16,), (3,)), 16, 0.0, ((3, 4),), 1, (2, 2), True, 4)


def experiment(sizes: Sizes) -> ExperimentConfig:
    """configs/perov5_cds.py with Adam, the paper's optimizer."""
    config = config_module.from_dict(perov5_cds.get_config().to_dict())
    training = dataclasses.replace(config.training, optimizer=ADAM, batch_size=sizes.batch_size)
    return dataclasses.replace(config, training=training)


def peak(name: str, mesh: Mesh, sizes: Sizes) -> Measurement:
    """Of matrix products; once at the beginning and once at the end."""
    return Measurement("peak", name, lambda: {"tflops": matmul_peak(mesh, sizes.product)}, 2)


def training(mesh: Mesh, sizes: Sizes) -> Iterator[Measurement]:
    """Structures/s of each width and number of atoms."""
    for width in sizes.widths:
        for num_atoms in sizes.atoms:
            compared = width in sizes.compared[0] and num_atoms in sizes.compared[1]
            forms = tuple(FORMS) if compared else (EFFICIENT,)
            config = with_width(experiment(sizes), width)
            call = partial(training_speed, config, num_atoms, mesh, forms, sizes.call_flop)
            name = f"width {width}, {num_atoms} atoms"
            yield Measurement("training", name, call, 6 * len(forms))


def sampling(mesh: Mesh, sizes: Sizes) -> Iterator[Measurement]:
    """Network calls per second."""
    for num_atoms, size in sizes.sampled:
        call = partial(sampling_speed, experiment(sizes), num_atoms, mesh, size)
        yield Measurement("sampling", f"{num_atoms} atoms, {size} at once", call, 12)


def starting(sizes: Sizes) -> list[Measurement]:
    """Seconds from the start of commands."""
    num, num_steps = sizes.first
    first = partial(startup.first_crystals, num=num, num_steps=num_steps)
    train = partial(startup.training, smoke=sizes.smoke)
    step = 10 if sizes.smoke else 100
    times = partial(startup.cold_and_cached, repeats=sizes.starts)
    again = partial(startup.repeated_start, repeats=sizes.starts)
    return [
        Measurement("start", "import", lambda: again(startup.IMPORT), 4),
        Measurement("start", "`sample --help`", lambda: again(startup.HELP), 4),
        Measurement(
            "start", f"first {num} crystals, {2 * num_steps} calls", lambda: times(first), 50
        ),
        Measurement(
            "start", f"`train`, step {step}", lambda: times(train, line=rf"step {step}/"), 100
        ),
    ]


def scores(sizes: Sizes) -> list[Measurement]:
    """Rates of bonds, oracle and potential."""
    num = sizes.scored
    oracle, bonds = partial(scoring.oracle_speed, num), scoring.bonds_speed
    return [
        Measurement("scoring", "bonds, 5 atoms", lambda: bonds(num, (1, 1, 1)), 20),
        Measurement("scoring", "bonds, 20 atoms", lambda: bonds(num // 2, (1, 2, 2)), 40),
        Measurement("scoring", "oracle with bonds in the cache, 5 atoms", oracle, 15),
        Measurement("scoring", "energy, forces and stress", scoring.potential_speed, 20),
    ]


def pytorch(python: Path, sizes: Sizes) -> Iterator[Measurement]:
    """Structures/s of `torch_reference.py`: a thread per core, and a process per core."""
    cores = num_cores()
    for width in sizes.compared[0]:
        for num_atoms in sizes.compared[1]:
            for processes in sorted({1, cores}):
                threads = cores // processes
                call = partial(torch_speed, python, sizes, width, num_atoms, processes)
                name = f"width {width}, {num_atoms} atoms, {processes} x {threads}"
                yield Measurement("PyTorch", name, call, 10)


def torch_speed(
    python: Path, sizes: Sizes, width: int, num_atoms: int, processes: int
) -> dict[str, Any]:
    """Rates of all processes together; each trains a network of its own.

    Raises:
      UserError: the environment cannot run the reference.
    """
    size = batch_sizes((5, num_atoms), (1, 0), sizes.batch_size)[1]
    request = {
        "width": width,
        "num_layers": _TORCH_LAYERS,
        "num_atoms": num_atoms,
        "batch_size": size,
        "threads": num_cores() // processes,
        "repeats": REPEATS,
        "num_steps": 2,
    }
    started = [
        subprocess.Popen(
            [python, "-W", "ignore", _TORCH, json.dumps(request)],
            env=os.environ | {"OMP_NUM_THREADS": str(request["threads"])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    printed = [process.communicate() for process in started]
    for process, (_, errors) in zip(started, printed, strict=True):
        if process.returncode:
            raise UserError(
                f"--reference_python={python} cannot run the reference ({errors[-200:].strip()}): "
                "give the Python of an environment with `pip install torch`."
            )
    results = [json.loads(output) for output, _ in printed]
    # They run side by side; a repeat is as long as that of the slowest of them.
    repeats = zip(*(result["seconds"] for result in results), strict=True)
    structures = processes * size * request["num_steps"]
    return {
        "structures_per_second": rate(structures, [max(seconds) for seconds in repeats]),
        "parameters": results[0]["parameters"],
        "torch": results[0]["torch"],
    }


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m benchmarks.processor", description=__doc__ or "")
    what = flags.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="JSON file for all figures")
    what.add_argument(
        "--tables", action="store_true", help="only make the tables of benchmarks/README.md anew"
    )
    flags.add_argument(
        "--budget", type=float, default=1200, help="time budget in seconds (default: %(default)s)"
    )
    flags.add_argument("--quick", action="store_true", help="small sizes, to check the program")
    flags.add_argument("--reference_python", type=Path, help="Python of an environment with torch")
    return flags


def main() -> None:
    """Entry point."""
    flags: argparse.Namespace = parser().parse_args()
    if flags.out:
        measure(flags)
    if flags.tables or (flags.out.resolve().parent == processor_tables.REPORTS and not flags.quick):
        readme = processor_tables.README
        tables = processor_tables.section()
        replace_text(readme, processor_tables.with_section(readme.read_text(), tables))


def measure(flags: argparse.Namespace) -> None:
    """Measures, saves and prints all figures."""
    program.check_output(flags.out)
    if flags.quick and flags.out.resolve().parent == processor_tables.REPORTS:
        raise UserError(f"--out={flags.out}: reports of --quick are not kept with the others")
    jax.config.update("jax_platforms", "cpu")
    # Else a second run would take the time of reading programs for that of compiling them.
    jax.config.update("jax_enable_compilation_cache", False)
    head = {"machine": machine.describe(), "quick": flags.quick}
    sizes = QUICK if flags.quick else Sizes()
    mesh = devices.data_mesh()

    def write(report: dict[str, Any]) -> None:
        replace_text(flags.out, json.dumps(report, indent=1) + "\n")

    session = Session(head, flags.budget, processor_tables.COLUMNS, write)
    session.run(
        [
            peak("at the beginning", mesh, sizes),
            *starting(sizes),
            *scores(sizes),
            *sampling(mesh, sizes),
            *training(mesh, sizes),
            *(pytorch(flags.reference_python, sizes) if flags.reference_python else []),
            peak("at the end", mesh, sizes),
        ]
    )
    print(processor_tables.page(session.report))


if __name__ == "__main__":
    program.run(main)
