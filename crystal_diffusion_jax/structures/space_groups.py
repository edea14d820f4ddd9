"""Names of space groups -> their operations, in every setting that a name may mean; crystals' own.

The settings are the 530 of spglib's database. gemmi adds older names (`C m c a` beside `C m c e`,
`F d 3 m`) and centred cells of low symmetry (`C -1`), and multiplies operations.
"""

import contextlib
import functools
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import gemmi
import numpy as np
import spglib
from pymatgen.core import Structure

# The set of a space group's operations as triplets such as `-x,y+1/2,-z+1/2`, translations within
# [0, 1).
Group = frozenset[str]
TRIVIAL: Group = frozenset({"x,y,z"})

# How programs say origin or axes after a name, and what spglib calls it. In ICSD, S is the first
# origin and Z (Zentrum) the second, at a centre of inversion.
_APPENDED = [
    (re.compile(r"[ (:,]*\borigin(?: choice)? ?([12])\)?$", re.IGNORECASE), None),
    (re.compile(r"[ (:,]+O([12])\)?$"), None),
    (re.compile(r"[ (:,]*\bhexagonal(?: axes)?\)?$", re.IGNORECASE), "h"),
    (re.compile(r"[ (:,]*\brhombohedral(?: axes)?\)?$", re.IGNORECASE), "r"),
    (re.compile(r" ?: ?([\da-z-]+)$", re.IGNORECASE), None),
    (re.compile(r"(?<=[^ ]) ?S$"), "1"),
    (re.compile(r"(?<=[^ ]) ?Z$"), "2"),
    (re.compile(r"(?<=[^ ]) ?H$"), "h"),
    (re.compile(r"(?<=[^ ]) ?R$"), "r"),
]
_MONOCLINIC = range(3, 16)


class Setting(NamedTuple):
    """A space group with its axes and origin.

    Attributes:
      number: 1..230.
      choice: of axes and origin, in lower case as spglib names it: `2`, `h`, `b1`, `1cab`; empty
        where nothing is to be chosen.
      hall: Hall symbol.
    """

    number: int
    choice: str
    hall: str

    def group(self) -> Group:
        """The operations."""
        return _group_of_hall(self.hall)

    def is_called(self, choice: str) -> bool:
        """Whether it has these axes or this origin: `1` of `1cab` as well as `cab`."""
        return self.choice.startswith(choice) or self.choice.lstrip("12") == choice


def settings_of_name(name: str) -> list[Setting]:
    """All settings that a Hermann-Mauguin symbol may mean; none where it is unknown.

    Short or full, with or without blanks, in any case, with what programs append to it:
    `P 21/c`, `P2(1)/c`, `p 1 2_1/c 1`, `FD-3M`, `F d -3 m :1`, `R -3 m H`, `P 4/n m m Z`.
    """
    symbol, choice = _without_choice(_plain(name))
    found = _names().get(_key(symbol), [])
    if not found and (other := gemmi.find_spacegroup_by_name(symbol[:1].upper() + symbol[1:])):
        found = _names()[_key(other.hm)]
    return [setting for setting in found if setting.is_called(choice)]


def settings_of_number(number: int) -> list[Setting]:
    """All settings of a space group, 1..230; none where there is no such number."""
    return [setting for setting in _database() if setting.number == number]


def settings_of_hall(symbol: str) -> list[Setting]:
    """The one setting that a Hall symbol means; none where it is no Hall symbol."""
    symbol = symbol.replace("_", " ")
    try:
        group = _group_of_hall(symbol)
    except (ValueError, RuntimeError):
        return []
    return [Setting(number_of(group), "", symbol)]


def group_of(operations: Iterable[gemmi.Op]) -> Group:
    """The set of some operations, whether it is a group or not."""
    return frozenset(operation.wrap().triplet() for operation in operations)


@functools.lru_cache(maxsize=1024)
def is_closed(operations: Group) -> bool:
    """Whether every product of two of the operations is one of them, up to lattice vectors."""
    closure = gemmi.GroupOps([gemmi.Op(triplet) for triplet in operations])
    try:
        closure.add_missing_elements()
    except RuntimeError:  # they generate ever more
        return False
    return group_of(closure) == operations


@functools.lru_cache(maxsize=1024)
def as_arrays(group: Group) -> tuple[np.ndarray, np.ndarray]:
    """Rotations R [n, 3, 3] and translations t [n, 3] of x -> R x + t, the identity first."""
    triplets = sorted(group, key=lambda triplet: (triplet != "x,y,z", triplet))
    operations = [gemmi.Op(triplet) for triplet in triplets]
    rotations = np.array([operation.rot for operation in operations]) // gemmi.Op.DEN
    translations = np.array([operation.tran for operation in operations]) / gemmi.Op.DEN
    return rotations, translations


@functools.lru_cache(maxsize=1024)
def number_of(group: Group) -> int:
    """The space group's number, 1..230, whatever the setting.

    Raises:
      ValueError: it is no space group.
    """
    with spglib_warnings_ignored():
        kind = spglib.get_spacegroup_type_from_symmetry(*as_arrays(group))
    if kind is None:
        raise ValueError("the symmetry operations are not those of a space group")
    return int(kind.number)


@functools.lru_cache(maxsize=1024)
def _group_of_hall(symbol: str) -> Group:
    return group_of(gemmi.symops_from_hall(symbol))


@functools.cache
def _database() -> list[Setting]:
    """spglib's settings, in its order."""
    return [Setting(kind.number, kind.choice.lower(), kind.hall_symbol) for kind in _kinds()]


@functools.cache
def _kinds() -> list[spglib.SpaceGroupType]:
    with spglib_warnings_ignored():
        kinds = [spglib.get_spacegroup_type(hall_number) for hall_number in range(1, 531)]
    return [kind for kind in kinds if kind is not None]


def space_group(structure: Structure, symprec: float) -> tuple[str, int] | None:
    """Hermann-Mauguin symbol and number within `symprec` Angstrom; None where spglib finds none."""
    with spglib_warnings_ignored():
        try:
            # Angles, too, are compared by distance.
            return structure.get_space_group_info(max(symprec, 1e-3), angle_tolerance=-1)
        except Exception:  # spglib fails in several ways
            return None


@contextlib.contextmanager
def spglib_warnings_ignored() -> Iterator[None]:
    """Without its announcement that failures, which callers check for, will be exceptions."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Set OLD_ERROR_HANDLING", DeprecationWarning)
        yield


@functools.cache
def _names() -> dict[str, list[Setting]]:
    """Settings by the `_key` of each of their names; several may have the same operations."""
    named = defaultdict(list)
    for name, setting in (*_spglib_names(), *_gemmi_names()):
        named[_key(name)].append(setting)
    return dict(named)


def _spglib_names() -> Iterator[tuple[str, Setting]]:
    for kind, setting in zip(_kinds(), _database(), strict=True):
        yield kind.international_full, setting
        if setting.number in _MONOCLINIC:
            # spglib's short symbol is that of the standard axes: P 21/c for P 1 21/n 1 too.
            yield re.sub(r" 1(?= |$)", "", kind.international_full), setting
        else:
            yield kind.international_short, setting


def _gemmi_names() -> Iterator[tuple[str, Setting]]:
    for entry in gemmi.spacegroup_table():
        setting = Setting(entry.number, entry.ext.strip("\0").lower(), entry.hall)
        yield entry.hm, setting
        yield entry.short_name(), setting


def _plain(name: str) -> str:
    """A name without mark-up and the number in brackets: `P2_{1}/c (14)` is `P21/c`."""
    name = re.sub(r"</?su[bp]>|[_{}~]", "", name.replace("\\bar", "-"))
    name = re.sub(r"2\(1\)|3\([12]\)|4\([123]\)|6\([1-5]\)", lambda m: m[0][0] + m[0][2], name)
    name = re.sub(r"\(? ?(?:no\.?|#) ?\d+\)?$|\(\d+\)$", "", name, flags=re.IGNORECASE)
    return " ".join(name.split())


def _without_choice(name: str) -> tuple[str, str]:
    for pattern, choice in _APPENDED:
        if match := pattern.search(name):
            return name[: match.start()], choice or match[1].lower()
    return name, ""


def _key(name: str) -> str:
    return re.sub(r"[ _]", "", name).lower()
