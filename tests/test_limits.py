"""data/limits.py: what JSON may hold, and that its memory is in proportion to its limit."""

import tracemalloc
from pathlib import Path

import pytest

from crystal_diffusion_jax.runtime.files import TooLarge, read_json

LIMIT = 2**20


def repeated(item: str, length: int) -> str:
    """A list of equal items, of at most this many bytes."""
    return f"[{','.join([item] * ((length - 1) // (len(item.encode()) + 1)))}]"


@pytest.mark.parametrize(
    "item",
    ["[]", "{}", "[[[]]]", "1e9", '"ab"', '{"a":{}}', "[],[],0,0,0,0,0,0,0", '"' + 99 * "😀" + '"'],
)
@pytest.mark.parametrize("length", [LIMIT, LIMIT // 3, LIMIT + 10])
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


def test_json_of_any_depth_ends_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for opening in ("[", '{"a":'):
        path.write_text(opening * 10_000)
        with pytest.raises(ValueError, match="nested too deeply"):
            read_json(path, 2**20)
