"""Trains on synthetic crystals; prints the losses and the memory that the training took.

python -m tests.training_memory EMPTY_FOLDER NUM_CRYSTALS {maps,memory}
"""

import dataclasses
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.prepared import read_folder, write_folder
from crystal_diffusion_jax.training.loop import train
from tests.smoke_run import CONFIG

# One call of two steps from each of two groups, with one validation at the end.
TRAINING = dataclasses.replace(
    CONFIG.training,
    num_steps=4,
    warmup_steps=1,
    batch_size=16,
    steps_per_call=2,
    log_every=2,
    checkpoint_every=4,
    tail_oversampling=2,
)
MAX_SIZE = 24  # atoms


def crystals(num: int, seed: int) -> Iterator[CrystalDataset]:
    """Random crystals of 12 or 24 atoms, some at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, num, 10_000):
        count = min(10_000, num - start)
        num_atoms = rng.choice([MAX_SIZE // 2, MAX_SIZE], count)
        atoms = int(num_atoms.sum())
        yield CrystalDataset(
            lattice=8 * np.eye(3) + rng.uniform(size=(count, 3, 3)),
            num_atoms=num_atoms,
            frac_coords=rng.uniform(size=(atoms, 3)),
            atomic_numbers=rng.choice([8, 22, 56], atoms),
            properties=rng.normal(size=(count, 1)),
            property_names=("energy",),
            material_ids=np.arange(start, start + count).astype(str),
        )


def memory_mb(field: str) -> float:
    """A line of proc(5): VmHWM is the peak of all resident memory, RssAnon without files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"no {field}")


def main(folder: Path, num: int, kind: str) -> None:
    """Prints an object of JSON."""
    splits = {}
    for seed, (split, count) in enumerate({"train": num, "val": 100}.items()):
        (folder / split).mkdir()
        write_folder(folder / split, ("energy",), crystals(count, seed))
        splits[split] = read_folder(folder / split).dataset
        if kind == "memory":
            splits[split] = splits[split].take(np.arange(count))
    peaks, ended = [memory_mb("RssAnon")], threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            peaks.append(memory_mb("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    train(dataclasses.replace(CONFIG, training=TRAINING), splits, folder / "run")
    ended.set()
    watcher.join()
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    losses = [[row.get("loss"), row.get("val_loss")] for row in rows]
    size = sum(path.stat().st_size for path in (folder / "train").iterdir()) / 2**20
    found = {"losses": losses, "peak": memory_mb("VmHWM"), "anonymous": max(peaks), "data": size}
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
