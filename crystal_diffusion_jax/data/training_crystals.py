"""The training crystals of a model, which travel in its folder: training_crystals.npz.

They say which generated crystals are not new, and which phases a crystal competes with, without the
data set. Cells are single-precision and coordinates are multiples of 1/65536 of a cell vector, some
1e-4 Angstrom, far below what decides whether two crystals are the same.
"""

import io
from pathlib import Path

import numpy as np

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.errors import UserError, printable
from crystal_diffusion_jax.runtime.archives import read_arrays
from crystal_diffusion_jax.runtime.files import replace_bytes

FILE = "training_crystals.npz"
_STEPS = 65536  # of a fractional coordinate
# Name -> kind of its type, and number of axes.
_ARRAYS = {
    "lattice": ("f", 3),
    "num_atoms": ("u", 1),
    "frac_coords": ("u", 2),
    "species": ("u", 1),
    "properties": ("f", 2),
    "property_names": ("U", 1),
    "material_ids": ("U", 1),
}


def save(dataset: CrystalDataset, folder: Path) -> None:
    """Writes the crystals into a model folder.

    Raises:
      OSError: they cannot be written.
    """
    content = io.BytesIO()
    np.savez_compressed(
        content,
        allow_pickle=False,
        lattice=dataset.lattice.astype(np.float32),
        num_atoms=dataset.num_atoms.astype(np.uint16),
        frac_coords=(np.round(dataset.frac_coords * _STEPS) % _STEPS).astype(np.uint16),
        species=dataset.atomic_numbers.astype(np.uint8),
        properties=dataset.properties.astype(np.float32),
        property_names=np.array(dataset.property_names, dtype=np.str_),
        material_ids=np.array(dataset.material_ids, dtype=np.str_),
    )
    replace_bytes(folder / FILE, content.getvalue())


def load(folder: Path) -> CrystalDataset | None:
    """The crystals of a model folder, None if it has none.

    Raises:
      UserError: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        arrays = read_arrays(path)
        for name, (kind, axes) in _ARRAYS.items():
            if name not in arrays or arrays[name].dtype.kind != kind or arrays[name].ndim != axes:
                raise ValueError(f"{name} is missing or of another kind")
        num_atoms = arrays["num_atoms"].astype(np.int64)
        count, atoms = len(num_atoms), int(num_atoms.sum())
        names = tuple(map(str, arrays["property_names"]))
        shapes = {
            "lattice": (count, 3, 3),
            "frac_coords": (atoms, 3),
            "species": (atoms,),
            "properties": (count, len(names)),
            "material_ids": (count,),
        }
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise ValueError(f"{name} does not fit the other arrays")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({printable(str(error), 300)}); copy the model again"
        ) from error
    return CrystalDataset(
        lattice=arrays["lattice"].astype(np.float64),
        num_atoms=num_atoms,
        frac_coords=arrays["frac_coords"] / _STEPS,
        atomic_numbers=arrays["species"].astype(np.int64),
        properties=arrays["properties"].astype(np.float64),
        property_names=names,
        material_ids=arrays["material_ids"],
    )
