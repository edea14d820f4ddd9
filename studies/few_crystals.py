"""How few crystals are enough: tables of 40, 300 and 3,000, and what models trained on them make.

    python -m studies.few_crystals tables --root=MP20 --out=tables
    python -m studies.few_crystals judge --root=MP20 --samples samples/40 samples/300

The tables hold band gaps of MP-20; those of 40 and 300 only crystals that `mp20_cdi` was not
trained on. The judge's band gaps are those of a kernel ridge regression on compositions and
volumes, fitted to training crystals that are in no table; it prints its own error on all others.
"""

import argparse
import csv
import functools
import gzip
import json
import random
import warnings
from pathlib import Path

import ase.db
import numpy as np
import scipy.linalg
import scipy.spatial.distance
from pymatgen.core import Element

from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.evaluation.diversity import dataset_structures
from crystal_diffusion_jax.evaluation.validity import composition_defect
from crystal_diffusion_jax.structures.compositions import reduced_composition
from crystal_diffusion_jax.structures.conversion import minimum_distance, to_structure

PROPERTY = "band_gap"
SIZES = (40, 300, 3_000)
SPLITS = ("train", "val", "test")
LAST_ELEMENT = 94  # of MP-20
# Of the regression, chosen on the validation split.
WIDTH, RIDGE = 20.0, 1e-2


def chosen_rows(root: Path) -> dict[int, list[dict[str, str]]]:
    """The rows of each table: first those that `mp20_cdi` has not seen, then of its training."""
    csv.field_size_limit(2**31 - 1)
    rows = {}
    for split in SPLITS:
        with gzip.open(root / f"{split}.csv.gz", "rt") as file:
            rows[split] = list(csv.DictReader(file))
    rng = random.Random(0)
    unseen = rows["test"] + rows["val"]
    rng.shuffle(unseen)
    order = unseen + rng.sample(rows["train"], max(SIZES) - len(unseen))
    return {size: order[:size] for size in SIZES}


def write_tables(root: Path, out: Path) -> None:
    """Writes OUT/40.csv and so on."""
    out.mkdir(parents=True, exist_ok=True)
    for size, rows in chosen_rows(root).items():
        with open(out / f"{size}.csv", "w", newline="") as file:
            columns = ["material_id", PROPERTY, "cif"]
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)


@functools.cache
def element_features() -> np.ndarray:
    """[95, 5] electronegativity, row, group, radius and Mendeleev number, about 1 in spread."""
    rows = [np.zeros(5)]
    for number in range(1, LAST_ELEMENT + 1):
        element = Element.from_Z(number)
        radius = float(element.atomic_radius or 1.5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of noble gases without one
            electronegativity = element.X
        values = (
            electronegativity,
            element.row,
            element.group / 3,
            2 * radius,
            element.mendeleev_no / 20,
        )
        rows.append(np.nan_to_num(np.array(values, float), nan=1.5))
    return np.array(rows)


def features(atomic_numbers: np.ndarray, volume: float) -> np.ndarray:
    """[115] of a crystal: shares of elements; mean, spread, least and most of their features."""
    shares = np.bincount(atomic_numbers, minlength=LAST_ELEMENT + 1)[1:] / len(atomic_numbers)
    own = element_features()[atomic_numbers]
    statistics = [own.mean(axis=0), own.std(axis=0), own.min(axis=0), own.max(axis=0)]
    per_atom = volume / len(atomic_numbers) / 10
    return np.concatenate([5 * shares, *statistics, [per_atom]])


def of_dataset(dataset: CrystalDataset) -> np.ndarray:
    """[M, 115] features."""
    atoms = np.split(dataset.atomic_numbers, dataset.offsets[1:-1])
    volumes = np.abs(np.linalg.det(dataset.lattice))
    return np.array([features(each, volume) for each, volume in zip(atoms, volumes, strict=True)])


class BandGaps:
    """Kernel ridge regression with the Laplacian kernel.

    Args:
      inputs: [n, F].
      values: [n] eV.
    """

    def __init__(self, inputs: np.ndarray, values: np.ndarray) -> None:
        self._inputs, self._mean = inputs, values.mean()
        kernel = self._kernel(inputs)
        kernel[np.diag_indices(len(kernel))] += RIDGE
        self._weights = scipy.linalg.solve(kernel, values - self._mean, assume_a="pos")

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """[m] eV, at least 0."""
        return np.maximum(self._kernel(inputs) @ self._weights + self._mean, 0.0)

    def _kernel(self, inputs: np.ndarray) -> np.ndarray:
        distance = scipy.spatial.distance.cdist(inputs, self._inputs, "cityblock")
        return np.exp(-distance / WIDTH)


def judge(samples: Path, gaps: BandGaps, limits: np.ndarray) -> dict[str, object]:
    """Statistics of one folder of samples.

    Args:
      samples: of `experiments.sample`.
      gaps: predicts band gaps.
      limits: [2] volume per atom of training crystals, from the 0.5th to the 99.5th percentile.
    """
    rows = list(ase.db.connect(samples / "samples.db").select(sort="index"))
    crystals = [
        to_structure(row.cell, row.toatoms().get_scaled_positions(), row.numbers) for row in rows
    ]
    volumes = np.array([crystal.volume / len(crystal) for crystal in crystals])
    closest = np.array([minimum_distance(crystal) for crystal in crystals])
    neutral = [
        composition_defect(reduced_composition(crystal.atomic_numbers)) is None
        for crystal in crystals
    ]
    asked = np.array([row[f"target_{PROPERTY}"] for row in rows])
    inputs = [features(np.array(c.atomic_numbers), c.volume) for c in crystals]
    predicted = gaps(np.array(inputs))
    within = (volumes >= limits[0]) & (volumes <= limits[1])
    return {
        "samples": samples.name,
        "written": len(rows),
        "apart by 0.5 A": round(float(np.mean(closest > 0.5)), 3),
        "closest atoms, 1st percentile / median": np.percentile(closest, [1, 50]).round(2).tolist(),
        "volume per atom, median": round(float(np.median(volumes)), 1),
        "volume within training's": round(float(np.mean(within)), 3),
        "least volume": round(float(volumes.min()), 2),
        "neutral": round(float(np.mean(neutral)), 3),
        "mean |predicted - asked|": round(float(np.mean(np.abs(predicted - asked))), 2),
        "correlation": round(float(np.corrcoef(predicted, asked)[0, 1]), 2),
        # Of the same crystals in another order: what it is if requests have no effect.
        "without effect": round(float(np.mean(np.abs(predicted[:, None] - asked[None, :]))), 2),
    }


def main() -> None:
    """Entry point."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("task", choices=["tables", "judge"])
    flags.add_argument("--root", type=Path, required=True, help="folder with MP-20's tables")
    flags.add_argument("--out", type=Path, help="folder for the tables")
    flags.add_argument("--samples", type=Path, nargs="*", default=[], help="folders of samples")
    args = flags.parse_args()
    if args.task == "tables":
        write_tables(args.root, args.out)
        return
    splits = load(DataConfig(root=str(args.root), properties=(PROPERTY,)))
    taken = {row["material_id"] for row in chosen_rows(args.root)[max(SIZES)]}
    train = splits["train"]
    free = np.array([name not in taken for name in train.material_ids.tolist()])
    gaps = BandGaps(of_dataset(train)[free], train.properties[free, 0])
    for split in ("val", "test"):
        error = np.abs(gaps(of_dataset(splits[split])) - splits[split].properties[:, 0])
        spread = np.abs(splits[split].properties[:, 0] - np.median(train.properties[:, 0]))
        print(f"{split}: the judge errs by {error.mean():.3f} eV, a median by {spread.mean():.3f}")
    volumes = np.abs(np.linalg.det(train.lattice)) / train.num_atoms
    limits = np.percentile(volumes, [0.5, 99.5])
    print(f"volume per atom {limits.round(1).tolist()}, median {np.median(volumes):.1f}")
    test = dataset_structures(splits["test"])
    closest = np.percentile([minimum_distance(crystal) for crystal in test], [1, 50])
    print(
        f"closest atoms of the test split, 1st percentile and median: {closest.round(2).tolist()}"
    )
    for samples in args.samples:
        print(json.dumps(judge(samples, gaps, limits)))


if __name__ == "__main__":
    main()
