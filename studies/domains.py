"""Measures what each oracle was trained on, so that other crystals get no prediction.

    python -m studies.domains --dataset=perov5

Writes crystal_diffusion_jax/oracles/domains/DATASET.json from the training split, and prints the
share of each split that is outside, and of test crystals that are stretched, squeezed and rattled.
"""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.evaluation.diversity import dataset_structures
from crystal_diffusion_jax.oracles import domain, weights
from crystal_diffusion_jax.oracles.basis import CUTOFF
from crystal_diffusion_jax.oracles.domain import Domain
from crystal_diffusion_jax.oracles.graph import MAX_ATOMIC_NUMBER, arrays
from crystal_diffusion_jax.oracles.predict import answers
from crystal_diffusion_jax.structures.distances import nearest_neighbours
from studies import records
from studies.perturbations import perturbed

# Changes of the cell's lengths in per cent, and standard deviations in Angstrom.
_AMOUNTS = {"strain": (-30.0, -20.0, -10.0, 10.0, 20.0, 50.0, 400.0), "rattle": (0.2, 0.5, 1.0)}
_NUM_PERTURBED = 100


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m studies.domains", description=__doc__)
    flags.add_argument("--dataset", choices=list(KNOWN_DATASETS), required=True, help="data set")
    flags.add_argument("--root", default="", help="folder of its tables")
    flags.add_argument("--out", type=Path, default=domain.FOLDER, help="folder of the JSON")
    return flags


def measure(dataset: str, splits: Mapping[str, CrystalDataset]) -> Domain:
    """The domain of an oracle, and how many crystals of each split are outside.

    Args:
      dataset: name of the data set and the oracle.
      splits: "train", which is measured, and "val" and "test"; the first property counts.
    """
    train, test = splits["train"], splits["test"]
    nearest = np.concatenate(
        [nearest_neighbours(*arrays(each), CUTOFF)[1] for each in dataset_structures(train)]
    )
    volume = np.abs(np.linalg.det(train.lattice)) / train.num_atoms
    said = answers(dataset_structures(test), dataset).values
    found = Domain(
        dataset=dataset,
        command=f"python -m studies.domains --dataset={dataset}",
        date=datetime.date.today().isoformat(),
        num_crystals=len(train),
        elements=sorted(set(train.atomic_numbers.tolist()) | _surely_trained(dataset)),
        num_atoms=(int(train.num_atoms.min()), int(train.num_atoms.max())),
        volume_per_atom=(float(volume.min()), float(volume.max())),
        nearest=(float(nearest.min()), float(nearest.max())),
        values=(float(train.properties[:, 0].min()), float(train.properties[:, 0].max())),
        error=float(np.nanmean(np.abs(said - test.properties[:, 0]))),
        outside={},
    )
    outside = {
        name: (num_outside(found, dataset_structures(each)), len(each))
        for name, each in splits.items()
        if name != "train"
    }
    return dataclasses.replace(found, outside=outside)


def _surely_trained(dataset: str) -> set[int]:
    """Atomic numbers whose row in the network's table has left its initial range.

    PyTorch Geometric draws the table from (-sqrt 3, sqrt 3), and only elements in the training data
    get gradients; a row that was trained little may still be inside.
    """
    table = weights.load(dataset).parameters["emb.emb.weight"]
    largest = np.abs(table[1 : MAX_ATOMIC_NUMBER + 1]).max(axis=1)
    return set((1 + np.flatnonzero(largest > np.sqrt(3) + 1e-6)).tolist())


def num_outside(found: Domain, structures: Sequence[Structure]) -> int:
    """How many crystals are outside by cell, bonds or predicted value."""
    inside = [each for each in structures if found.cell_defect(*arrays(each)) is None]
    said = answers(inside, found.dataset)
    values = [value for i, value in enumerate(said.values) if i not in said.failures]
    return len(structures) - sum(found.value_defect(value) is None for value in values)


def main() -> None:
    """Entry point."""
    flags = parser().parse_args()
    out = flags.out / f"{flags.dataset}.json"
    program.check_output(out)
    splits = load(DataConfig(name=flags.dataset, root=flags.root))
    found = measure(flags.dataset, splits)
    records.write(out, found)
    for name, (outside, num) in found.outside.items():
        print(f"{name:16} {outside:5} of {num} outside")
    crystals = dataset_structures(splits["test"])[:_NUM_PERTURBED]
    for perturbation, amounts in _AMOUNTS.items():
        for amount, changed in perturbed(crystals, perturbation, amounts, seed=0).items():
            title = f"{perturbation} {amount:g}"
            print(f"{title:16} {num_outside(found, changed):5} of {len(changed)} outside")
    print(f"numbers in {out}")


if __name__ == "__main__":
    program.run(main)
