"""data/copies.py, split.py, unique.py: copies of one crystal, found, never parted, left out."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from scipy.sparse.csgraph import connected_components
from scipy.spatial.transform import Rotation

from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data import copies
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.copies import find_copies
from crystal_diffusion_jax.data.load import load
from crystal_diffusion_jax.data.split import random_split
from crystal_diffusion_jax.data.unique import require_new_folder, write_unique
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation.diversity import dataset_structures
from tests.crystal_sets import dataset

PEROVSKITE = np.array([[0, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]]) / 2
CENTRED = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
TITANATE = Structure(Lattice.cubic(3.9), ["Sr", "Ti", "O", "O", "O"], PEROVSKITE)
# Two phases of one compound, and another compound with the structure of the first.
PROTOTYPES = [
    Structure(Lattice.cubic(4.1), ["Cs", "Cl"], CENTRED),
    Structure.from_spacegroup("Fm-3m", Lattice.cubic(6.9), ["Cs", "Cl"], CENTRED.tolist()),
    Structure(Lattice.cubic(4.1), ["K", "Cl"], CENTRED),
    TITANATE,
    Structure(Lattice.tetragonal(3.9, 6.5), ["Sr", "Ti", "O", "O", "O"], PEROVSKITE),
]


def copy(structure: Structure, seed: int) -> Structure:
    """The same crystal: a supercell, turned, shifted, its atoms in another order."""
    rng = np.random.default_rng(seed)
    made = structure.copy()
    if rng.random() < 0.5:
        made.make_supercell(rng.permutation([2, 1, 1]).tolist())
    turned = Lattice(made.lattice.matrix @ Rotation.random(rng=rng).as_matrix())
    order = rng.permutation(len(made))
    coords = (made.frac_coords + rng.random(3))[order]
    return Structure(turned, [made.species[atom] for atom in order], coords)


def brute_force(structures: list[Structure]) -> list[set[int]]:
    """Connected components of all pairs that pymatgen's matcher finds the same."""
    matcher = StructureMatcher()
    same = np.array([[matcher.fit(one, other) for other in structures] for one in structures])
    _, labels = connected_components(same, directed=False)
    return [set(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)]


mixtures = st.lists(
    st.tuples(st.integers(0, len(PROTOTYPES) - 1), st.integers(0, 2**20)), min_size=2, max_size=9
)


@settings(max_examples=25)
@given(mixtures)
def test_groups_are_the_components_that_brute_force_finds(made: list[tuple[int, int]]) -> None:
    structures = [copy(PROTOTYPES[which], seed) for which, seed in made]
    groups = find_copies([dataset(structures)], progress=False)
    for component in brute_force(structures):
        assert {int(groups[row]) for row in component} == {min(component)}


@settings(max_examples=25)
@given(mixtures, st.integers(0, 100), st.sampled_from([0.1, 0.3, 0.5]))
def test_no_copy_stands_on_the_other_side(
    made: list[tuple[int, int]], seed: int, fraction: float
) -> None:
    structures = [copy(PROTOTYPES[which], number) for which, number in made]
    whole = dataset(structures)
    groups = find_copies([whole], progress=False)
    if len({which for which, _ in made}) == 1:
        with pytest.raises(UserError, match=r"crystals are copies of 1 .* own train"):
            random_split(whole, groups, {"val": fraction}, seed)
        return
    parts = random_split(whole, groups, {"val": fraction}, seed)
    assert sorted(itertools.chain(*parts.values())) == list(range(len(made)))
    assert not set(groups[parts["train"]]) & set(groups[parts["val"]])


def test_copies_of_copies_are_together_though_they_do_not_match() -> None:
    # Steps of 8 % in c/a: neighbours match, the ends do not.
    chain = [
        Structure(Lattice.tetragonal(4.0, 4.0 * 1.08**step), ["Cs", "Cl"], CENTRED)
        for step in range(6)
    ]
    assert not StructureMatcher().fit(chain[0], chain[-1])
    order = [3, 0, 5, 1, 4, 2]
    shuffled = [chain[step] for step in order]
    assert brute_force(shuffled) == [set(range(6))]
    assert find_copies([dataset(shuffled)], progress=False).tolist() == [0] * 6


def test_workers_find_the_same_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    structures = [copy(PROTOTYPES[seed % len(PROTOTYPES)], seed) for seed in range(12)]
    parts = [dataset(structures[:7]), dataset(structures[7:])]
    alone = find_copies(parts, progress=False)
    monkeypatch.setattr(copies, "_MIN_CRYSTALS_FOR_WORKERS", 1)
    np.testing.assert_array_equal(find_copies(parts, progress=False), alone)
    # Scaling is part of the matcher, so only the prototype decides.
    assert alone.tolist() == [seed % len(PROTOTYPES) for seed in range(12)]


def test_without_copies_the_split_is_a_permutation_cut_in_two() -> None:
    whole = dataset([TITANATE] * 50)
    parts = random_split(whole, np.arange(50), {"val": 0.1, "test": 0.2}, seed=3)
    order = np.random.default_rng(3).permutation(50)
    np.testing.assert_array_equal(parts["val"], np.sort(order[:5]))
    np.testing.assert_array_equal(parts["test"], np.sort(order[5:15]))
    np.testing.assert_array_equal(parts["train"], np.sort(order[15:]))


def test_the_unique_crystals_are_the_first_of_each_group(tmp_path: Path) -> None:
    # Two of the three crystals of val are copies of crystals in train.
    train = [copy(PROTOTYPES[which], seed) for seed, which in enumerate((0, 1, 0, 2))]
    val = [copy(PROTOTYPES[which], 9 + seed) for seed, which in enumerate((3, 1, 0))]
    folder = tmp_path / "unique"
    splits = {"train": named(dataset(train)), "val": named(dataset(val))}
    assert write_unique(splits, folder, progress=False) == {"train": 3, "val": 1}
    found = load(DataConfig(root=str(folder), properties=("energy", "kind")), progress=False)
    for split, rows in (("train", [0, 1, 3]), ("val", [0])):
        original = splits[split].take(np.array(rows))
        np.testing.assert_array_equal(found[split].material_ids, original.material_ids)
        for name in ("energy", "kind"):
            np.testing.assert_array_equal(values(found[split], name), values(original, name))
    originals = [train[row] for row in (0, 1, 3)] + val[:1]
    reread = [each for split in ("train", "val") for each in dataset_structures(found[split])]
    for one, other in zip(originals, reread, strict=True):
        assert one.composition == other.composition
        assert one.volume == pytest.approx(other.volume, rel=1e-5)
        assert StructureMatcher(scale=False, ltol=1e-3, stol=1e-3).fit(one, other)


def test_what_cannot_be_written_without_copies_is_refused(tmp_path: Path) -> None:
    both = {"train": dataset([TITANATE]), "val": dataset([copy(TITANATE, 1)])}
    with pytest.raises(UserError, match="all crystals of val are copies of earlier ones"):
        write_unique(both, tmp_path / "unique", progress=False)
    # Of two copies in train the first is a metal, and so the salt in val has none to learn from.
    contradicting = {
        "train": named(dataset([TITANATE, copy(TITANATE, 1)])),
        "val": named(dataset([PROTOTYPES[0], PROTOTYPES[1]])),
    }
    with pytest.raises(UserError, match="val holds the kind 'salt', which train never has"):
        write_unique(contradicting, tmp_path / "unique", progress=False)
    assert not list(tmp_path.iterdir())


def test_a_copy_that_has_the_property_is_preferred(tmp_path: Path) -> None:
    train = dataset([TITANATE, copy(TITANATE, 1), PROTOTYPES[0]])
    energies = np.array([[np.nan], [1.25], [np.nan]])
    train = dataclasses.replace(train, properties=energies)
    splits = {"train": train, "val": dataset([PROTOTYPES[1]])}
    write_unique(splits, tmp_path / "unique", progress=False)
    config = DataConfig(root=str(tmp_path / "unique"), properties=("energy",))
    found = load(config, progress=False)["train"]
    np.testing.assert_array_equal(found.properties, energies[1:])
    assert found.material_ids.tolist() == ["id-1", "id-2"]


def test_crystals_that_cannot_be_compared_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> bool:
        raise ValueError

    monkeypatch.setattr(StructureMatcher, "fit", fails)
    train = dataset([TITANATE, copy(TITANATE, 1)])
    splits = {"train": train, "val": dataset([PROTOTYPES[1]])}
    assert find_copies([train], progress=False).tolist() == [0, 0]
    assert write_unique(splits, tmp_path / "unique", progress=False) == {"train": 2, "val": 1}


def test_the_folder_is_checked_before_the_search(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").touch()
    for folder, message in (
        (tmp_path, "is not an empty folder: choose another"),
        (tmp_path / "mine.csv", "is not an empty folder: choose another"),
        (tmp_path / "mine.csv" / "unique", "cannot be written: "),
    ):
        with pytest.raises(UserError, match=message):
            require_new_folder(folder)
    require_new_folder(tmp_path / "new" / "unique")


def named(crystals: CrystalDataset) -> CrystalDataset:
    """With a number that one crystal lacks, and a class."""
    energies = np.arange(len(crystals)) / 7
    energies[-1] = np.nan
    return dataclasses.replace(
        crystals,
        properties=np.stack([energies, np.arange(len(crystals)) % 2], axis=1),
        property_names=("energy", "kind"),
        class_names={"kind": ("metal, soft", "salt")},
    )


def values(crystals: CrystalDataset, name: str) -> list[str]:
    numbers = crystals.properties[:, crystals.property_names.index(name)]
    classes = crystals.class_names.get(name)
    return [classes[int(x)] if classes else repr(x) for x in numbers.tolist()]
