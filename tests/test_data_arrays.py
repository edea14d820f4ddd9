"""data/arrays.py: statistics from a file are checked, and extreme ones can be used."""

import dataclasses
import warnings
from typing import Any

import msgspec
import numpy as np
import pytest

from crystal_diffusion_jax.data.arrays import CrystalDataset, DatasetStatistics, dataset_statistics
from tests.test_trained_model import STATISTICS

DATASET = CrystalDataset(
    lattice=np.stack([4.0 * np.eye(3)] * 2),
    num_atoms=np.array([1, 2]),
    frac_coords=np.full((3, 3), 0.25),
    atomic_numbers=np.array([8, 22, 8]),
    properties=np.array([[1.0], [2.0]]),
    property_names=("energy",),
    material_ids=np.array(["a", "b"]),
)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"vocabulary": ()}, "vocabulary"),
        ({"vocabulary": (8, 8)}, "vocabulary must ascend"),
        ({"vocabulary": (8, 119)}, "vocabulary must ascend within 1 .. 118"),
        ({"vocabulary": (8.5,)}, "vocabulary"),
        ({"vocabulary": 8}, "vocabulary"),
        ({"num_atoms_histogram": ()}, "num_atoms_histogram"),
        ({"num_atoms_histogram": ((5, 0),)}, "num_atoms_histogram"),
        (
            {"num_atoms_histogram": ((10**9, 1),)},
            "must ascend within 1 .. 1000",
        ),
        ({"num_atoms_histogram": ((5, 1, 1),)}, "num_atoms_histogram"),
        ({"property_mean": (0.0,)}, "property_mean must be 2 finite"),
        ({"property_mean": (0.0, float("nan"))}, "property_mean must be 2 finite"),
        ({"property_std": (1.0, 0.0)}, "property_std must be above 0"),
        ({"property_max": (1.0, "x")}, "property_max"),
        ({"property_names": ("a", "a")}, "property_names"),
        ({"lattice_scale": float("inf")}, "lattice_scale"),
        ({"lattice_scale": -1.0}, "lattice_scale"),
        ({"scale_by_num_atoms": 1}, "scale_by_num_atoms"),
    ],
)
def test_statistics_that_cannot_be_are_named(changes: dict[str, Any], name: str) -> None:
    fields = msgspec.to_builtins(STATISTICS)
    assert msgspec.convert(fields, DatasetStatistics) == STATISTICS
    with pytest.raises(ValueError, match=name):
        msgspec.convert(fields | changes, DatasetStatistics)


@pytest.mark.parametrize("scale", [1e30, 1e-160, 1e-310])
def test_statistics_of_extreme_properties_are_finite_and_divide(scale: float) -> None:
    dataset = dataclasses.replace(DATASET, properties=scale * np.array([[-1.0], [1.0]]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of squares that underflow
        statistics = dataset_statistics(dataset, scale_by_num_atoms=False)
    z_scores = (dataset.properties - statistics.property_mean) / statistics.property_std
    assert np.isfinite(z_scores).all()
    # Squares of 1e-160 are denormal and keep some four digits.
    assert np.abs(z_scores).max() <= 1.001
