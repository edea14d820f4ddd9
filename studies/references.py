"""Fits the reference energies that turn a potential's energies into formation energies.

    python -m studies.references --dataset=mp20 --num=2000
    python -m studies.references --dataset=perov5 --num=2000
    python -m studies.references --dataset=carbon24 --num=1000
    python -m studies.references --dataset=perov5 --num=2000 --per_cell --out=elsewhere

Writes crystal_diffusion_jax/potentials/reference_energies/DATASET.json, with the errors on the test
split by class of compounds and how many test crystals lie near the hull of the training labels.
MP-20 comes first: the other fits are drawn towards its reference energies, where their own data
leave them open (in ABX3 a shift of all cations against all anions). The last command shows that
Perov-5's label is no energy of a cell: the error is several times as large.
"""

import datetime
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.copies import crystal_arrays
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.errors import require_between
from crystal_diffusion_jax.potentials import hull, references, weights
from crystal_diffusion_jax.potentials.energies import Evaluated, evaluate_all
from crystal_diffusion_jax.structures.conversion import to_structure
from studies import records
from studies.reference_fit import (
    RIDGE,
    Energies,
    FittedReferences,
    choose,
    errors_by_class,
    fit,
    formation_energies,
    hull_control,
)

Evaluate = Callable[[Sequence[Structure]], Sequence[Evaluated | str]]

# Column of the tables of MP-20, eV/atom.
_ABOVE_SOURCE_HULL = "e_above_hull"
_LABELS = {
    "mp20": "formation_energy_per_atom in eV/atom, from the elements",
    "perov5": "heat_ref, read as eV/atom, from phases that compete with the perovskite",
    "carbon24": "energy_per_atom in eV/atom, above the lowest of the training split",
}


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m studies.references", description=__doc__)
    flags.add_argument("--dataset", choices=sorted(_LABELS), required=True, help="data set")
    flags.add_argument("--root", default="", help="folder of its tables")
    flags.add_argument("--num", type=int, default=2000, help="training crystals to fit on")
    flags.add_argument("--seed", type=int, default=0, help="seed of their choice")
    flags.add_argument("--per_cell", action="store_true", help="read the label as eV of a cell")
    flags.add_argument("--out", type=Path, default=references.FOLDER, help="folder of the JSON")
    return flags


def atoms_of(dataset: CrystalDataset) -> list[np.ndarray]:
    """M arrays of atomic numbers."""
    return np.split(dataset.atomic_numbers, dataset.offsets[1:-1])


def measure(
    dataset: str,
    splits: Mapping[str, CrystalDataset],
    num: int,
    seed: int,
    per_cell: bool,
    towards: Mapping[int, float],
    evaluate: Evaluate,
) -> FittedReferences:
    """Fits on `num` crystals of "train", measures on all of "test".

    Args:
      dataset: name of a known data set.
      splits: its crystals; the first property is the label, a second one `e_above_hull`.
      num: number of crystals to fit on.
      seed: of their choice.
      per_cell: the label is divided by the number of atoms.
      towards: see `fit`.
      evaluate: the potential.
    """
    train, test = splits["train"], splits["test"]

    def labels_of(crystals: CrystalDataset) -> np.ndarray:
        return crystals.properties[:, 0] / (crystals.num_atoms if per_cell else 1)

    zero = float(labels_of(train).min()) if dataset == "carbon24" else 0.0

    def energies_of(crystals: CrystalDataset) -> Energies:
        found = evaluate([to_structure(*arrays) for arrays in crystal_arrays(crystals)])
        energies = [np.nan if isinstance(each, str) else each.energy_per_atom for each in found]
        return Energies(atoms_of(crystals), labels_of(crystals) - zero, np.array(energies))

    sample = energies_of(train.take(choose(atoms_of(train), num, seed)))
    fitted = fit(sample, towards)
    used = [numbers for numbers, e in zip(sample.numbers, sample.energies, strict=True) if e == e]
    held_out = energies_of(test)
    predicted = formation_energies(held_out, fitted)
    known = hull.from_crystals(atoms_of(train), labels_of(train) - zero)
    with_source = _ABOVE_SOURCE_HULL in test.property_names
    return FittedReferences(
        dataset=dataset,
        label=_LABELS[dataset],
        label_is_per_cell=per_cell,
        label_zero=zero,
        potential=weights.NAME,
        wheel_sha256=weights.WHEEL_SHA256,
        command=f"python -m studies.references --dataset={dataset} --num={num} --seed={seed}"
        + " --per_cell" * per_cell,
        date=datetime.date.today().isoformat(),
        num_crystals=len(used),
        ridge=RIDGE,
        energies=fitted,
        counts=dict(sorted(Counter(int(z) for each in used for z in np.unique(each)).items())),
        test=errors_by_class(held_out, predicted),
        num_not_tested=int(np.isnan(predicted).sum()),
        control=hull_control(
            known, held_out, predicted, test.properties[:, 1] if with_source else None
        ),
    )


def main() -> None:
    """Entry point."""
    flags = parser().parse_args()
    require_between("num", flags.num, 1, np.inf)
    require_between("seed", flags.seed, 0, np.inf)
    out = flags.out / f"{flags.dataset}.json"
    program.check_output(out)
    is_first = flags.dataset == "mp20"
    label = KNOWN_DATASETS[flags.dataset].property_name
    properties = (label, _ABOVE_SOURCE_HULL) if is_first else (label,)
    splits = load(DataConfig(name=flags.dataset, root=flags.root, properties=properties))
    towards = {} if is_first else references.load("mp20").energies
    found = measure(
        flags.dataset, splits, flags.num, flags.seed, flags.per_cell, towards, evaluate_all
    )
    records.write(out, found)
    for name, error in found.test.items():
        print(f"{name:16} {error.num_crystals:6} {1000 * error.mae:8.1f} meV/atom")
    print(f"numbers in {out}")


if __name__ == "__main__":
    program.run(main)
