"""From a request to a shortlist for DFT: samples, screens, relaxes, judges, ranks, reports.

    python -m experiments.discover --model=mp20_cdi --target=-2 --num=500 --top=20 --out=discover/m2
    python -m experiments.discover --model=perov5_cds --target=min --num=100 --out=discover/min

OUT gets samples.db, funnel.json, shortlist.csv, inputs of DFT programs in shortlist/, report.html.
The same command continues after an interruption; changed flags compute what depends on them.
"""

import math
import os
import sys
from pathlib import Path

from crystal_diffusion_jax import commands
from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.cli.request_flags import ALL, add_part, add_request_flags, requested
from crystal_diffusion_jax.cli.stopping import end_if_any, stopping_on_signals
from crystal_diffusion_jax.errors import require_between

# The others are for those who compare samplers.
_REQUEST = tuple(
    name
    for name in ALL
    if name not in ("corrector_step_size", "renoising_steps", "averaging_rounds", "symprec")
)


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m experiments.discover", description=__doc__)
    flags.add_argument(
        "--model",
        type=Path,
        required=True,
        help="model folder, workdir of a training, or shipped model",
    )
    flags.add_argument("--out", type=Path, required=True, help="folder for everything")
    flags.add_argument("--top", type=int, default=20, help="largest shortlist (default: 20)")
    flags.add_argument(
        "--tolerance",
        type=float,
        help="of the property, around the target (default: 5 %% of the data)",
    )
    flags.add_argument(
        "--max_e_hull",
        type=float,
        default=0.1,
        help="limit of the energy above the hull, eV/atom (default: 0.1)",
    )
    flags.add_argument(
        "--per_formula", type=int, default=3, help="crystals of one formula at most (default: 3)"
    )
    flags.add_argument(
        "--known",
        type=os.path.expanduser,
        action="append",
        default=[],
        help="file or folder of known crystals; repeatable",
    )
    flags.add_argument(
        "--hull",
        type=os.path.expanduser,
        help="as of `relax` (default: the model's training crystals)",
    )
    flags.add_argument("--potential", default="chgnet", help="as of `relax` (default: chgnet)")
    flags.add_argument(
        "--cell",
        choices=("as_relaxed", "primitive", "conventional"),
        default="as_relaxed",
        metavar="CELL",
        help="of DFT inputs: as_relaxed (default), primitive or conventional",
    )
    add_part(flags)
    add_request_flags(flags, *_REQUEST)
    return flags


def main() -> None:
    """Entry point."""
    flags = parser().parse_args()
    from crystal_diffusion_jax import trained_model
    from crystal_diffusion_jax.cli import report
    from crystal_diffusion_jax.cli.sample import announce
    from crystal_diffusion_jax.discovery import pipeline
    from crystal_diffusion_jax.discovery.plan import make_plan
    from crystal_diffusion_jax.discovery.settings import Settings
    from crystal_diffusion_jax.runtime import devices
    from crystal_diffusion_jax.runtime.lock import exclusive
    from crystal_diffusion_jax.sampling.resolve import resolve
    from crystal_diffusion_jax.structures.store import create_folder

    require_between("batch_size", flags.batch_size, 1, math.inf)
    names = ("top", "tolerance", "max_e_hull", "per_formula", "hull", "potential", "cell")
    given = {name: getattr(flags, name) for name in names}
    settings = Settings(known=tuple(flags.known), **given)
    devices.keep_freed_memory()
    model = trained_model.load(flags.model)
    request = resolve(model, str(flags.model), **requested(flags))
    announce(request, model)
    plan = make_plan(model, request, settings, commands.command("discover", sys.argv[1:]))
    for note in plan.notes:
        print(f"note: {note}")
    devices.data_mesh()  # a device that cannot be used is an error before there is a folder
    create_folder(flags.out)
    with exclusive(flags.out, "--out"):
        with stopping_on_signals() as received:

            def log(line: str) -> None:
                print(line)
                end_if_any(received)

            pipeline.sample(
                model,
                plan,
                flags.out,
                flags.batch_size,
                log,
                flags.part,
                export=lambda: len(received) < 2,
            )
        with stopping_on_signals(at_once=True) as signals:
            changed = pipeline.select(
                plan, flags.out, flags.part, after_each=lambda: end_if_any(signals)
            )
    if flags.part is not None:
        print(f"part {flags.part.number} of {flags.part.count} is done: join them with `merge`")
        return
    page = flags.out / pipeline.PAGE
    if changed or not page.exists():
        report.write([f"--structures={flags.out}", f"--out={page}"])
    print(f"shortlist in {flags.out / 'shortlist.csv'}")
