"""Data sets of a few crystals."""

from collections.abc import Sequence

import numpy as np
from pymatgen.core import Structure

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.structures.conversion import wrap_array


def dataset(
    structures: Sequence[Structure],
    names: Sequence[str] = ("energy",),
    ids: Sequence[str] | None = None,
    properties: Sequence[Sequence[float]] | None = None,
) -> CrystalDataset:
    """Crystals, which may be none, with the ids id-0, id-1, ... and properties of 0 by default."""
    num = len(structures)
    frac_coords = np.concatenate([np.zeros((0, 3)), *(each.frac_coords for each in structures)])
    return CrystalDataset(
        lattice=np.array([each.lattice.matrix for each in structures]).reshape(num, 3, 3),
        num_atoms=np.array([len(each) for each in structures], np.int64),
        frac_coords=wrap_array(frac_coords),
        atomic_numbers=np.array([z for each in structures for z in each.atomic_numbers], np.int64),
        properties=np.zeros((num, len(names))) if properties is None else np.array(properties),
        property_names=tuple(names),
        material_ids=np.array([f"id-{i}" for i in range(num)] if ids is None else ids, np.str_),
    )


def assert_same(one: CrystalDataset, other: CrystalDataset) -> None:
    assert one.property_names == other.property_names
    for name in ("lattice", "num_atoms", "frac_coords", "atomic_numbers", "properties"):
        a, b = getattr(one, name), getattr(other, name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert list(one.material_ids) == list(other.material_ids)
