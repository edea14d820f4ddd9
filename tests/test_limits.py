"""read_json in runtime/files.py: bounded, checked, and its memory in proportion to its limit."""

import dataclasses
import json
import tracemalloc
from pathlib import Path

import pytest

from crystal_diffusion_jax.runtime.files import TooLarge, read_json

LIMIT = 2**20


def repeated(item: str, length: int) -> str:
    """A list of equal items, of at most this many bytes."""
    return f"[{','.join([item] * ((length - 1) // (len(item.encode()) + 1)))}]"


ITEMS = (
    *("[]", "{}", "[[[]]]", "1e9", '"ab"', '{"a":{}}', "[],[],0,0,0,0,0,0,0"),
    '"' + 99 * "😀" + '"',
)


@pytest.mark.parametrize(
    ("item", "length"), [*((item, LIMIT) for item in ITEMS), ("[]", LIMIT + 10)]
)
def test_the_memory_of_hostile_json_is_in_proportion_to_the_limit(
    tmp_path: Path, item: str, length: int
) -> None:
    path = tmp_path / "a.json"
    path.write_text(repeated(item, length), encoding="utf-8")
    tracemalloc.start()
    try:
        read_json(path, LIMIT)
    except TooLarge:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 16 * LIMIT


def test_a_file_beyond_its_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": [1.5, 99 * "text"]}))
    assert read_json(path, path.stat().st_size) == {"a": [1.5, 99 * "text"]}
    with pytest.raises(TooLarge, match="larger than"):
        read_json(path, path.stat().st_size - 1)


@dataclasses.dataclass(frozen=True)
class Point:
    """Something to be read."""

    x: float
    names: tuple[str, ...]


def test_json_is_checked_against_a_type(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"x": 1, "names": ["a", "b"]}')
    assert read_json(path, 2**20, Point) == Point(1.0, ("a", "b"))
    for text, reason in (
        ('{"x": "1", "names": []}', r"Expected `float`, got `str` - at `\$.x`"),
        ('{"x": 1}', "missing required field `names`"),
        ('{"x": NaN, "names": []}', "malformed"),
        ('{"x": 1, "names": [', "truncated"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=reason):
            read_json(path, 2**20, Point)


def test_json_of_any_depth_ends_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for opening in ("[", '{"a":'):
        path.write_text(opening * 10_000)
        with pytest.raises(ValueError, match="nested too deeply"):
            read_json(path, 2**20)
