"""Shows generated crystals as one HTML file: table with filters, every structure in 3-D, files.

    python -m experiments.report --structures=samples/min --out=report.html --png=pictures
    python -m experiments.report --structures=FOLDER_OF_CIFS --dataset=mp20 --out=report.html
    python -m experiments.report --structures=x --relaxed=FOLDER_OF_RELAX --out=report.html

The file needs no network. If the training crystals, an oracle for the property, or the oracle's
weights are missing, the page notes it and shows the rest. Crystals that `experiments.relax` relaxed
are shown both ways: give its folder as --relaxed, unless they are samples, whose samples.db holds
it all. If there is a funnel.json in the folder, the page shows its stages.
"""

import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crystal_diffusion_jax import commands
from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.data import few
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.errors import UserError, require_between

if TYPE_CHECKING:
    from crystal_diffusion_jax.structures.database import StoredRequest
    from crystal_diffusion_jax.trained_model import TrainedModel


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m experiments.report", description=__doc__)
    program.add_structures(flags)
    flags.add_argument("--out", type=Path, required=True, help="HTML file")
    flags.add_argument("--png", type=Path, help="folder to save the pictures to as PNG files")
    flags.add_argument(
        "--dataset", choices=list(KNOWN_DATASETS), help="compare with it (default: the model's)"
    )
    flags.add_argument(
        "--root",
        default="",
        help="where the training crystals are: of a known data set, the folder of its tables; of "
        "your own data, as for training; without a model, a csv of crystals",
    )
    flags.add_argument(
        "--symprec", type=float, default=0.1, help="symmetry, Angstrom (default: %(default)s)"
    )
    flags.add_argument("--relaxed", type=Path, help="folder of `relax` of the same crystals")
    return flags


def _find_model(stored: "StoredRequest | None") -> "TrainedModel | None":
    """The model that made the crystals, if it is still there and the same."""
    from crystal_diffusion_jax import trained_model

    if stored is None:
        return None
    try:
        model = trained_model.load(stored.request.model)
    except UserError:
        return None
    return model if model.weights_sha256 == stored.request.model_sha256 else None


def main() -> None:
    """Entry point."""
    write(sys.argv[1:])


def write(arguments: Sequence[str]) -> None:
    """Writes the page that these arguments of the command ask for.

    Raises:
      UserError: a mistake in them, or in what they name.
    """
    flags = parser().parse_args(arguments)
    from crystal_diffusion_jax.report.build import build
    from crystal_diffusion_jax.report.document import to_html
    from crystal_diffusion_jax.report.pictures import NAMES, to_png
    from crystal_diffusion_jax.structures.samples_reader import read_request

    require_between("symprec", flags.symprec, 0, math.inf)
    files = {} if flags.png is None else {name: flags.png / f"{name}.png" for name in NAMES}
    program.check_output(flags.out)
    for file in files.values():
        program.check_output(file, "png")
    stored = read_request(flags.structures)
    model = _find_model(stored)
    own = model.config.data.name if model else None
    dataset = flags.dataset or own
    page = build(
        flags.structures,
        stored,
        KNOWN_DATASETS.get(dataset or ""),
        model.statistics if model and dataset == own else None,
        flags.root,
        flags.symprec,
        command=commands.command("report", arguments),
        relaxed=flags.relaxed,
        data=model.config.data if model and dataset == own else None,
        train=model.training_crystals() if model and dataset == own else None,
    )
    if stored and model is None:
        note = (
            f"The model {stored.request.model} is no longer there, or is another one now, so that "
            "its training crystals are unknown; --dataset names a data set to compare with."
        )
        page = dataclasses.replace(page, notes=[*page.notes, note])
    if model and (banner := few.banner(model.statistics.num_crystals)):
        page = dataclasses.replace(page, banner=banner)
    program.write_output(flags.out, to_html(page))
    for name, file in files.items():
        if name in page.pictures:
            program.write_output(file, to_png(page.pictures[name]), "png")
            print(f"picture: {file}")
        else:
            file.unlink(missing_ok=True)  # would be that of other crystals
    for note in (*page.notes, *page.remarks):
        print(f"note: {note}")
    print(f"report in {flags.out.resolve()}")
