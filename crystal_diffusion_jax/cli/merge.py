"""Joins the parts of one request, which `--part=I/N` of N independent jobs has sampled.

    python -m experiments.merge --parts=samples/min-1,samples/min-2 --out=samples/min
    python -m experiments.merge --parts=discover/m-1,discover/m-2,discover/m-3 --out=discover/m

OUT is what one job would have written. After parts of `discover`, the same `discover` without
--part in OUT does the rest. Unfinished parts may be joined, and again when they have gone on.
"""

import os
from pathlib import Path

from crystal_diffusion_jax.cli import program


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m experiments.merge", description=__doc__)
    flags.add_argument("--parts", required=True, help="their folders, separated by commas")
    flags.add_argument("--out", type=Path, required=True, help="folder for the whole")
    return flags


def main() -> None:
    """Entry point."""
    flags = parser().parse_args()
    from crystal_diffusion_jax.discovery.merging import merge

    parts = [Path(os.path.expanduser(part)) for part in filter(None, flags.parts.split(","))]
    samples = merge(parts, flags.out)
    written, rejected = samples.counts()
    missing = len(samples.remaining())
    print(f"{written} crystals in {flags.out}, {rejected} rejected")
    if missing:
        print(f"{missing} crystals are in none of the parts yet: run their commands again")
