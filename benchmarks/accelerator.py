"""Does an accelerator agree with the CPU next to it, and how fast is it?

    python -m benchmarks.accelerator --out=accelerator.json --table=accelerator.md
    python -m benchmarks.accelerator --quick --out=quick.json --table=quick.md

Results are saved after every measurement. What does not fit the time budget is listed as missing.
Exit status 1: a measurement failed, or the accelerator and the CPU disagree.
"""

import dataclasses
import json
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from benchmarks import accelerator_table, agreement
from benchmarks.session import Measurement, Session
from benchmarks.speed import sampling_speed
from benchmarks.timing import matmul_peak
from benchmarks.training_speed import EFFICIENT, share_of_peak, training_speed, with_width
from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.config import ExperimentConfig
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime import devices
from crystal_diffusion_jax.runtime.files import replace_text
from crystal_diffusion_jax.trained_model import TrainedModel

MODEL = "perov5_cds"
# JAX's names for the rounding of matrix products. By default NVIDIA GPUs since Ampere round to TF32
# and TPUs to bfloat16. JAX's "bfloat16" is just another name for this default; the algorithm rounds
# the factors to bfloat16 and adds in float32. A CPU always computes in float32.
PRECISIONS = {"default": "default", "bfloat16": "BF16_BF16_F32", "float32": "highest"}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the measurements.

    Attributes:
      compared: crystals whose loss is compared.
      chains: kinds of short chains that are compared crystal by crystal.
      whole: crystals and steps of the whole chains whose means are compared.
      product: rows of the square matrices whose products give the peak rate.
      widths: widths of the network.
      atoms: atoms per crystal in training.
      batch_size: crystals of five atoms per training step, fewer if they are larger.
      steps_per_call: training steps per program.
      sampled: atoms per crystal and crystals at once in the sampler.
    """

    compared: int = 256
    chains: tuple[str, ...] = tuple(agreement.CHAINS)
    whole: tuple[int, int] = (512, 1000)
    product: int = 8192
    widths: tuple[int, ...] = (64, 256, 512)
    atoms: tuple[int, ...] = (5, 10, 20)
    batch_size: int = 4096
    steps_per_call: int = 10
    sampled: tuple[tuple[int, int], ...] = ((5, 256), (5, 8192), (20, 1024))


QUICK = Sizes(16, ("corrector",), (16, 10), 256, (16,), (5,), 32, 2, ((5, 8),))


def rounding(precision: str) -> Any:
    """A context with this rounding of matrix products, except where the program sets its own."""
    return jax.default_matmul_precision(PRECISIONS[precision])


def comparisons(model: TrainedModel, sizes: Sizes, precisions: list[str]) -> list[Measurement]:
    """The device against one CPU core, and against all of them for whole chains."""
    device, core = (agreement.mesh_of(one) for one in (jax.devices()[0], jax.devices("cpu")[0]))

    def verdict(precision: str, differences: dict[str, float]) -> dict[str, Any]:
        allowed = agreement.TOLERANCES[precision]
        return differences | {"within": agreement.within(differences, allowed)}

    @cache
    def expected_losses() -> Any:
        with rounding("float32"):
            return agreement.losses_and_gradient(model, core, sizes.compared)

    def loss(precision: str) -> dict[str, Any]:
        expected = expected_losses()
        with rounding(precision):
            found = agreement.losses_and_gradient(model, device, sizes.compared)
        return verdict(precision, agreement.loss_differences(found, expected))

    def chain(precision: str, kind: str) -> dict[str, Any]:
        options = agreement.CHAINS[kind]
        with rounding("float32"):
            expected = agreement.crystals(model, core, 20, 10, **options)
        with rounding(precision):
            found = agreement.crystals(model, device, 20, 10, **options)
        return verdict(precision, agreement.differences(found, expected))

    def whole() -> dict[str, Any]:
        with rounding("float32"):
            cores = agreement.mesh_of(*jax.devices("cpu"))
            expected = agreement.measures(model, agreement.crystals(model, cores, *sizes.whole))
        found = agreement.measures(model, agreement.crystals(model, device, *sizes.whole))
        errors = {
            name: agreement.standard_errors(found[name], values)
            for name, values in expected.items()
        }
        return errors | {"within": all(z <= agreement.LARGEST_Z for z in errors.values())}

    chains = [(kind, "float32") for kind in sizes.chains]
    if "default" in precisions:
        chains.append(("corrector", "default"))
    return [
        *(Measurement("loss", name, partial(loss, name)) for name in reversed(precisions)),
        *(
            Measurement("chain", f"{kind}, {precision}", partial(chain, precision, kind))
            for kind, precision in chains
        ),
        Measurement("whole chain", f"{sizes.whole[0]} crystals, {sizes.whole[1]} steps", whole),
    ]


def training(
    config: ExperimentConfig, mesh: Mesh, sizes: Sizes, precisions: list[str]
) -> list[Measurement]:
    """The peak of matrix products, then structures/s; the default precision first."""
    peaks: dict[str, float] = {}

    def peak(precision: str) -> dict[str, Any]:
        if precision == "bfloat16":  # the peak for matrices stored in bfloat16
            found = matmul_peak(mesh, sizes.product, jnp.bfloat16)
        else:
            with rounding(precision):
                found = matmul_peak(mesh, sizes.product)
        peaks[precision] = found["median"]
        return {"tflops": found}

    def speed(width: int, num_atoms: int, precision: str) -> dict[str, Any]:
        batches = dataclasses.replace(
            config.training, batch_size=sizes.batch_size, steps_per_call=sizes.steps_per_call
        )
        resized = dataclasses.replace(with_width(config, width), training=batches)
        with rounding(precision):
            row = training_speed(resized, num_atoms, mesh)
        row["precision"] = precision
        if precision in peaks:
            row["share_of_peak"] = share_of_peak(row, EFFICIENT, peaks[precision])
        return row

    def steps(width: int, num_atoms: int, precision: str) -> Measurement:
        name = f"width {width}, {num_atoms} atoms, {precision}"
        return Measurement("training", name, partial(speed, width, num_atoms, precision))

    # True float32, which no command uses, comes last and is the first to be skipped.
    groups = (precisions[:2], precisions[2:])
    return [
        *(Measurement("peak", name, partial(peak, name)) for name in precisions),
        *(
            steps(width, num_atoms, precision)
            for group in groups
            for num_atoms in sizes.atoms
            for width in sizes.widths
            for precision in group
        ),
    ]


def sampling(config: ExperimentConfig, mesh: Mesh, sizes: Sizes) -> list[Measurement]:
    """Crystals/s of whole chains, at the default precision."""
    return [
        Measurement(
            "sampling",
            f"{num_atoms} atoms, {size} at once, {'with' if guided else 'without'} guidance",
            partial(sampling_speed, config, num_atoms, mesh, size, guided),
        )
        for num_atoms, size in sizes.sampled
        for guided in (False, True)
    ]


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m benchmarks.accelerator", description=__doc__)
    flags.add_argument("--out", type=Path, required=True, help="JSON file for all figures")
    flags.add_argument("--table", type=Path, required=True, help="Markdown file for the tables")
    flags.add_argument(
        "--budget", type=float, default=480, help="time budget in seconds (default: %(default)s)"
    )
    flags.add_argument("--quick", action="store_true", help="small sizes, for any machine")
    return flags


def main() -> None:
    """Entry point.

    Raises:
      UserError: there is no accelerator, or no CPU device.
    """
    flags = parser().parse_args()
    for path in (flags.out, flags.table):
        program.check_output(path)
    mesh = devices.data_mesh()
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    try:
        jax.devices("cpu")
    except RuntimeError as error:
        raise UserError(
            "JAX_PLATFORMS excludes the CPU, with which the device is compared: add it, as in "
            "JAX_PLATFORMS=cuda,cpu"
        ) from error
    if on_cpu and not flags.quick:
        raise UserError(
            f"there is no accelerator, only {devices.describe()}: --quick runs the same "
            "measurements with small sizes on a CPU"
        )
    sizes = QUICK if flags.quick else Sizes()
    precisions = ["float32"] if on_cpu else list(PRECISIONS)
    model = trained_model.load(MODEL)

    def write(report: dict[str, Any]) -> None:
        replace_text(flags.out, json.dumps(report, indent=1) + "\n")
        replace_text(flags.table, accelerator_table.page(report))

    head = {"devices": devices.describe(), "jax": jax.__version__, "quick": flags.quick}
    session = Session(head, flags.budget, accelerator_table.COLUMNS, write)
    session.run(
        [
            *comparisons(model, sizes, precisions),
            *sampling(model.config, mesh, sizes),
            *training(model.config, mesh, sizes, precisions),
        ]
    )
    write(session.report)
    print(accelerator_table.page(session.report))
    if session.report["failed"] or not accelerator_table.agrees(session.report):
        sys.exit(1)


if __name__ == "__main__":
    program.run(main)
