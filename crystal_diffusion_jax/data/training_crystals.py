"""The training crystals that travel with a model, in a compact file beside its weights.

They say whether a generated crystal is in the training set, and are the templates.
Coordinates are rounded to 1/65536 of a cell vector, lattices and properties to float32.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.errors import UserError, printable
from crystal_diffusion_jax.runtime.archives import read_arrays
from crystal_diffusion_jax.structures.limits import MAX_ATOMS

FILE = "training_crystals.npz"
# Models of more crystals travel without them: 20 atoms a crystal take about 20 MB.
MAX_NUM = 200_000

_STEPS = 2**16  # of a fractional coordinate


class _Names(msgspec.Struct):
    """Names of the properties, and of the classes of those that are classes."""

    properties: tuple[str, ...]
    classes: dict[str, tuple[str, ...]]


def save(dataset: CrystalDataset, folder: Path) -> None:
    """Writes the file into a model folder.

    Args:
      dataset: at most `MAX_NUM` crystals.
      folder: exists.
    """
    names = _Names(dataset.property_names, dict(dataset.class_names))
    arrays: dict[str, Any] = {
        "lattice": dataset.lattice.astype(np.float32),
        "num_atoms": dataset.num_atoms.astype(np.uint16),
        "frac_coords": (np.round(dataset.frac_coords * _STEPS) % _STEPS).astype(np.uint16),
        "atomic_numbers": dataset.atomic_numbers.astype(np.uint8),
        "properties": dataset.properties.astype(np.float32),
        "material_ids": np.asarray(dataset.material_ids, np.str_),
        "names": np.array(json.dumps(msgspec.to_builtins(names))),
    }
    np.savez_compressed(folder / FILE, **arrays)


def load(folder: Path) -> CrystalDataset | None:
    """The training crystals of the model in a folder, None if it came without them.

    Raises:
      UserError: the file is damaged or holds something else.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return _checked(read_arrays(path))
    except (OSError, ValueError, KeyError, msgspec.DecodeError) as error:
        raise UserError(
            f"{path} does not hold training crystals ({printable(str(error), 300)}); copy the "
            "model again, or remove this file to do without them"
        ) from error


def _checked(arrays: dict[str, np.ndarray]) -> CrystalDataset:
    names = msgspec.json.decode(str(arrays["names"]), type=_Names)
    num_atoms = arrays["num_atoms"].astype(np.int64)
    frac_coords = arrays["frac_coords"].astype(np.float64) / _STEPS
    dataset = CrystalDataset(
        lattice=arrays["lattice"].astype(np.float64),
        num_atoms=num_atoms,
        frac_coords=frac_coords,
        atomic_numbers=arrays["atomic_numbers"].astype(np.int64),
        properties=arrays["properties"].astype(np.float64),
        property_names=names.properties,
        material_ids=arrays["material_ids"].astype(np.str_),
        class_names=names.classes,
    )
    num, num_all = len(num_atoms), int(num_atoms.sum())
    for name, shape in (
        ("num_atoms", (num,)),
        ("lattice", (num, 3, 3)),
        ("frac_coords", (num_all, 3)),
        ("atomic_numbers", (num_all,)),
        ("properties", (num, len(names.properties))),
        ("material_ids", (num,)),
    ):
        if getattr(dataset, name).shape != shape:
            raise ValueError(f"{name} has another shape than {shape}")
    if num == 0 or num_atoms.min() < 1 or num_atoms.max() > MAX_ATOMS:
        raise ValueError(f"crystals of less than 1 or more than {MAX_ATOMS} atoms")
    if dataset.atomic_numbers.min() < 1 or dataset.atomic_numbers.max() > 118:
        raise ValueError("atomic numbers outside 1 .. 118")
    finite = np.all(np.isfinite(dataset.lattice))
    if not finite or not np.all(np.abs(np.linalg.det(dataset.lattice)) > 0):
        raise ValueError("cells that are not finite, or flat")
    return dataset
