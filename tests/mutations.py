"""Damage of every kind to good input, the same for the same seed."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np

Rng = np.random.Generator

_NUMBERS = (
    "nan NaN inf -inf 1e999 -1e308 1e308 1e-320 -1 0 0.0 -0.0 1e19 99999999999999999999 0x10 1_0 "
    "1.5 1(5) 1e6 2000001 ١٢ 1,5 + . ?"
)
_WORDS = (
    "loop_ data_ data_x _eof save_ stop_ _cell_length_a _atom_site_fract_x ; # ' \" x,y,z "
    "-x,1/0,z 'x,y,z' null true [] {} [[[[ }} [1] : , ,, Xx D O2- C C0.5 Wat ../../etc "
    'Properties=species:S:1:pos:R:99999999 Lattice="0" pbc="F _JSON[[[[ VEC1'
)
NUMBERS = _NUMBERS.split(" ")
PIECES = [
    *NUMBERS,
    *_WORDS.split(" "),
    *("\x00", "\ufeff", "\u202e", "\u2028", "\x1f", "é", "漢", "\r", "\n", "\n\n", "\t", " " * 300),
    "A" * 3000,
    "[" * 2000,
    "9" * 5000,
]


def mutated(text: bytes, rng: Rng) -> bytes:
    """The text with one to four kinds of damage."""
    for _ in range(rng.integers(1, 5)):
        text = _KINDS[rng.integers(len(_KINDS))](text, rng)
    return text


def _place(text: bytes, rng: Rng) -> int:
    return int(rng.integers(len(text) + 1))


def _piece(rng: Rng) -> bytes:
    return PIECES[rng.integers(len(PIECES))].encode()


def _flip(text: bytes, rng: Rng) -> bytes:
    changed = bytearray(text or b" ")
    changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _cut(text: bytes, rng: Rng) -> bytes:
    return text[: _place(text, rng)]


def _delete(text: bytes, rng: Rng) -> bytes:
    start = _place(text, rng)
    return text[:start] + text[start + int(rng.integers(1, 60)) :]


def _repeat(text: bytes, rng: Rng) -> bytes:
    start = _place(text, rng)
    end = start + int(rng.integers(1, 200))
    return text[:end] + text[start:]


def _insert(text: bytes, rng: Rng) -> bytes:
    start = _place(text, rng)
    return text[:start] + _piece(rng) + text[start:]


def _on_parts(separator: bytes) -> Callable[[bytes, Rng], bytes]:
    """Replaces, repeats, drops or exchanges a line or a word."""

    def damage(text: bytes, rng: Rng) -> bytes:
        parts = text.split(separator)
        one, other = rng.integers(len(parts), size=2)
        match rng.integers(5):
            case 0:
                parts[one] = _piece(rng)
            case 1:
                parts.insert(other, parts[one])
            case 2:
                del parts[one]
            case 3:
                parts[one], parts[other] = parts[other], parts[one]
            case _:
                parts[one] = NUMBERS[rng.integers(len(NUMBERS))].encode()
        return separator.join(parts)

    return damage


_KINDS = [_flip, _cut, _delete, _repeat, _insert] + 2 * [_on_parts(s) for s in (b"\n", b" ", b",")]

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 10**30, 0.0, -0.5, 1e-320, 1e308, "", "x", "min", "\x00", "é"),
    *(float("nan"), float("inf"), float("-inf")),
    *([], {}, (), [1], ["a"], [[]], {"a": 1}, [float("nan")], ("a", 1), b"x"),
)


def mutated_tree(tree: dict[str, Any], rng: Rng) -> dict[str, Any]:
    """A copy of nested dictionaries with one to three fields changed, dropped, added or moved."""
    copy = {key: dict(value) if isinstance(value, dict) else value for key, value in tree.items()}
    for _ in range(rng.integers(1, 4)):
        branches: list[dict[str, Any]] = [copy]
        branches += [value for value in copy.values() if isinstance(value, dict) and value]
        branch = branches[rng.integers(len(branches))]
        key = list(branch)[rng.integers(len(branch))] if branch else "x"
        value = VALUES[rng.integers(len(VALUES))]
        match rng.integers(6):
            case 0:
                branch.pop(key, None)
            case 1:
                branch[PIECES[rng.integers(len(PIECES))]] = value
            case 2:
                other = list(copy)[rng.integers(len(copy))] if copy else key
                branch[key] = deepcopy(tree.get(other))
            case _:
                branch[key] = value
    return copy
