"""Known data sets: their source, property and success thresholds.

All three are those of CDVAE (Xie et al., arXiv:2110.06197), whose repository has them as csv files
with one inline CIF per row.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

SPLITS = ("train", "val", "test")

# A full commit, so that the files behind the addresses can never change.
CDVAE_DATA = (
    "https://raw.githubusercontent.com/txie-93/cdvae/f857f598d6f6cca5dc1ea0582d228f12dcc2c2ea/data"
)


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """A known data set.

    Attributes:
      name: the name used in configs and folder names.
      property_name: column of the property that is conditioned on and scored.
      unit: unit of that property.
      success_thresholds: property values at or below which a crystal counts for SR5, SR10 and
        SR15: the 5th, 10th and 15th percentile of the data set, as CDVAE's evaluation has them.
      official_folder: the folder in CDVAE's repository.
      sha256: checksums of the official csv files by split.
    """

    name: str
    property_name: str
    unit: str
    success_thresholds: tuple[float, float, float]
    official_folder: str
    sha256: Mapping[str, str]

    def url(self, split: str) -> str:
        """Address of the official csv of "train", "val" or "test"."""
        return f"{CDVAE_DATA}/{self.official_folder}/{split}.csv"

    def download(self, folder: Path, progress: bool = True) -> dict[str, Path]:
        """Makes sure that the official files are in a folder; returns them by split.

        Raises:
          UserError: a file cannot be downloaded, is not the official one, or cannot be written.
        """
        # Imported here because reading prepared data needs no downloads.
        from crystal_diffusion_jax.runtime.downloads import fetch

        return {
            split: fetch(self.url(split), self.sha256[split], folder / f"{split}.csv", progress)
            for split in SPLITS
        }


KNOWN_DATASETS: Mapping[str, DatasetSpec] = {
    "perov5": DatasetSpec(
        name="perov5",
        property_name="heat_ref",
        unit="eV/cell",
        success_thresholds=(0.43924842, 0.61202443, 0.7364607),
        official_folder="perov_5",
        sha256={
            "train": "99cc012c21f5670a3d70d53781e1c4f20a9748a2f54945012db7bec5b563af4c",
            "val": "326f401219901270374b71e2faff63df3a29a99fd26f469993b9f476b693daf2",
            "test": "a85878c685037f0a578257f6d4fcdde00e968dbab73c5f1e90ecef65218513f6",
        },
    ),
    "carbon24": DatasetSpec(
        name="carbon24",
        property_name="energy_per_atom",
        unit="eV/atom",
        success_thresholds=(-154.527093, -154.45865733, -154.44206825),
        official_folder="carbon_24",
        sha256={
            "train": "de142c40617954a8b56c66a98bffb1a541abba69c79020067083c74dc445fa5f",
            "val": "36c00689cd63073c954a58bc6ed6e2adb7aeed5a630c994970959a1babffd50e",
            "test": "386b17c08816f434818d51e46687bf72ff3f92348f3ba24823e4758f1fe8a969",
        },
    ),
    "mp20": DatasetSpec(
        name="mp20",
        property_name="formation_energy_per_atom",
        unit="eV/atom",
        success_thresholds=(-3.17562208, -2.82196882, -2.52814761),
        official_folder="mp_20",
        sha256={
            "train": "133bab58dba02d316f9f91174839f17802dce648be4e8659d1a42b32b97fa01d",
            "val": "7b5f4085464b3eac9fd2123acee97ec372214004ce7e983b535b33395abc3e29",
            "test": "dd605c7543cf95a13e150aed630d0915e74edc8dea17e85301ee6fbfeb7f500a",
        },
    ),
}
