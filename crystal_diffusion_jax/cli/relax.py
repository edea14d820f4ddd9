"""Relaxes any crystals with an interatomic potential: energies, distances to the relaxed crystals.

    python -m experiments.relax --structures=samples/min --out=relaxed/min
    python -m experiments.relax --structures=crystal.cif --out=relaxed/one --hull=mp20
    python -m experiments.relax --structures=x --out=y --potential=ase:ase.calculators.emt.EMT

The folder gets relaxed.db, relaxed.csv with one row per crystal, and cif/. An interrupted command
keeps what is done; the same command continues. If --structures is a folder of `sample`, the columns
are also added to its samples.db and samples.csv, with the prefix relaxed_, for `report`.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.cli.stopping import end_if_any, stopping_on_signals
from crystal_diffusion_jax.potentials.relaxation import CHGNET, RelaxedCrystal, RelaxSettings


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m experiments.relax", description=__doc__)
    program.add_structures(flags)
    flags.add_argument("--out", type=Path, required=True, help="folder for the relaxed crystals")
    flags.add_argument(
        "--potential",
        default=CHGNET,
        help=f"{CHGNET}, or ase:module.Class, an ASE calculator (default: %(default)s)",
    )
    flags.add_argument("--fixed_cell", action="store_true", help="move the atoms only")
    flags.add_argument(
        "--fmax",
        type=float,
        default=RelaxSettings.fmax,
        help="largest force at convergence, eV/A (default: %(default)s)",
    )
    flags.add_argument(
        "--max_steps",
        type=int,
        default=RelaxSettings.max_steps,
        help="steps at most; 0: only energies (default: %(default)s)",
    )
    flags.add_argument(
        "--hull",
        type=os.path.expanduser,
        help="also the energy above the hull of a data set (mp20, perov5, carbon24), of a csv with "
        "formula and formation_energy_per_atom, or of the Materials Project (mp)",
    )
    return flags


def summary(relaxed: Sequence[RelaxedCrystal]) -> list[str]:
    """What relaxing changed, and why crystals failed, as lines of text."""
    from crystal_diffusion_jax.evaluation.checks import split_reason
    from crystal_diffusion_jax.evaluation.relaxed import CLOSE

    done = [one for one in relaxed if one.relaxation.failure is None]
    lines = []
    if done:
        gains = [one.energy_gain for one in done]
        lines.append(f"energy gain: median {np.median(gains):.3f} eV/atom, max {max(gains):.3f}")
        close = [one.rmsd for one in done if not np.isnan(one.rmsd)]
        distance = f"median {np.median(close):.3f} A, " if close else ""
        lines.append(
            f"RMSD to relaxed: {distance}{sum(x < CLOSE for x in close)} of {len(done)} within "
            f"{CLOSE} A, {len(done) - len(close)} became another structure or could not be compared"
        )
        changes = np.abs([one.volume_change for one in done])
        lines.append(f"volume change: median {100 * np.median(changes):.1f} %")
    failures = [one.relaxation.failure for one in relaxed if one.relaxation.failure]
    reasons = Counter(split_reason(failure)[0] for failure in failures)
    return lines + [f"failed, {count}: {reason}" for reason, count in reasons.most_common()]


def main() -> None:
    """Entry point."""
    flags = parser().parse_args()
    from crystal_diffusion_jax.evaluation.hulls import hull_columns
    from crystal_diffusion_jax.potentials.relax_folder import relax_into
    from crystal_diffusion_jax.potentials.relaxed_samples import sample_columns, sample_data
    from crystal_diffusion_jax.runtime.devices import keep_freed_memory
    from crystal_diffusion_jax.structures.reading import read_structures

    keep_freed_memory()
    settings = RelaxSettings(flags.potential, flags.fixed_cell, flags.fmax, flags.max_steps)
    inputs = read_structures(flags.structures)
    hull = hull_columns(flags.hull, settings.potential, inputs) if flags.hull else None
    with stopping_on_signals(at_once=True) as received:
        relaxed = relax_into(
            flags.out, inputs, settings, hull, after_each=lambda: end_if_any(received)
        )
    done = [one.relaxation for one in relaxed if one.relaxation.failure is None]
    print(
        f"{len(done)} of {len(relaxed)} crystals relaxed, {sum(x.converged for x in done)} of them "
        f"converged: {flags.out}"
    )
    for line in summary(relaxed):
        print(line)
    columns, data = sample_columns(relaxed, settings), sample_data(relaxed)
    program.add_to_samples(flags.structures, columns, data)
