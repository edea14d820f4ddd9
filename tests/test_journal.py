"""journal.py: whatever the last write left behind, complete batches count and nothing else."""

import json
import os
from pathlib import Path

import pytest
from crystal_diffusion_jax.sampling.journal import Journal

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.sampling import journal


def written(index: int) -> journal.Crystal:
    return {"structure": {"index": index, "lattice": [[0.1, 1e-9, 1 / 3]]}, "frame": f"{index}\n"}


def rejected(index: int, reason: str = "flat") -> journal.Crystal:
    return {"rejected": {"index": index, "reason": reason}}


def begin(path: Path) -> Journal:
    """A journal for five crystals that has 3, 0 and, rejected, 4."""
    journal.create(path, {"num": 5})
    opened = Journal(path)
    opened.append([written(3), rejected(4)], 0.5, 10)
    opened.append([written(0)], 0.25, 10)
    return opened


def state(opened: Journal) -> tuple:
    crystals = [*opened.structures(), *opened.rejected()]
    return crystals, opened.missing(), opened.reasons, opened.seconds, opened.network_calls


def test_crystals_come_back_by_index_with_every_digit(tmp_path):
    for opened in (begin(tmp_path / "journal"), Journal(tmp_path / "journal")):
        assert list(opened.structures()) == [written(0), written(3)]
        assert list(opened.rejected()) == [rejected(4)]
        assert opened.missing() == [1, 2]
        assert (opened.written, opened.done, opened.reasons) == (2, 3, {"flat": 1})
        assert (opened.seconds, opened.network_calls) == (0.75, 20)


def test_a_batch_cut_off_at_any_byte_has_not_happened_and_its_place_is_taken(tmp_path):
    path = tmp_path / "journal"
    before = state(begin(path))
    complete = path.read_bytes()
    Journal(path).append([written(1), rejected(2)], 0.5, 10)
    after, whole = state(Journal(path)), path.read_bytes()
    for length in range(len(complete), len(whole)):
        path.write_bytes(whole[:length])
        opened = Journal(path)
        assert state(opened) == before
        opened.append([written(1), rejected(2)], 0.5, 10)
        assert path.read_bytes() == whole
        assert state(opened) == state(Journal(path)) == after


def test_a_longer_tail_than_the_batch_that_replaces_it_leaves_nothing_behind(tmp_path):
    path = tmp_path / "journal"
    begin(path)
    with path.open("ab") as file:
        file.write(json.dumps(written(1)).encode() + b"\n" + b"\0" * 5000)
    Journal(path).append([rejected(2)], 0.5, 10)
    assert Journal(path).missing() == [1]
    assert b"\0" not in path.read_bytes()


def test_what_cannot_be_forced_to_the_disk_has_not_happened(tmp_path, monkeypatch):
    path = tmp_path / "journal"
    opened = begin(path)
    before, text = state(opened), path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        opened.append([written(1)], 0.5, 10)
    assert state(opened) == state(Journal(path)) == before
    assert path.read_bytes() == text


def test_numbers_that_are_not_finite_are_never_written(tmp_path):
    path = tmp_path / "journal"
    opened, text = begin(path), path.read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        opened.append([{"structure": {"index": 1, "volume": float("nan")}}], 0.5, 10)
    assert path.read_bytes() == text


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"{}",
        b"\xff",
        json.dumps(written(3)).encode(),
        json.dumps(written(5)).encode(),
        json.dumps(written(-1)).encode(),
        b'{"structure": {"index": "1"}}',
        b'{"batch": {}}',
    ],
)
def test_damage_before_the_end_is_refused_by_name(tmp_path, line):
    path = tmp_path / "journal"
    begin(path)
    with path.open("ab") as file:
        file.write(line + b"\n" + b'{"batch": {"seconds": 1.0, "network_calls": 1}}\n')
    with pytest.raises(UserError, match=r"journal is damaged.*another --out, or remove"):
        Journal(path)


@pytest.mark.parametrize(
    "line",
    [
        json.dumps(rejected(1, "long " * 100)),
        '{"rejected": {"index": 1, "reason": ["flat"]}}',
        '{"rejected": null}',
        '{"batch": {"seconds": NaN, "network_calls": 1}}',
        '{"batch": {"seconds": "1", "network_calls": 1}}',
        "[" * 10_000,
    ],
)
def test_what_would_be_told_to_the_user_or_added_up_is_checked(tmp_path, line):
    path = tmp_path / "journal"
    begin(path)
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=r"journal is damaged.*another --out, or remove"):
        Journal(path)


def test_an_endless_batch_is_refused_before_it_ends(tmp_path):
    path = tmp_path / "journal"
    begin(path)
    with path.open("a") as file:
        file.writelines(json.dumps(written(1)) + "\n" for _ in range(6))
    with pytest.raises(UserError, match="journal is damaged"):
        Journal(path)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"{}\n",
        b"3\n",
        b'{"format_version": 2, "settings": {"num": 5}}\n',
        b'{"format_version": 1, "settings": {"num": true}}\n',
        b'{"format_version": 1, "settings": {"num": -1}}\n',
        b'{"format_version": 1, "settings": {"num": 1000001}}\n',
    ],
)
def test_a_first_line_that_is_not_ours_is_refused(tmp_path, head):
    (tmp_path / "journal").write_bytes(head)
    with pytest.raises(UserError, match="damaged or was written by another version"):
        Journal(tmp_path / "journal")
