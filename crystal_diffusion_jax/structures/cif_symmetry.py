"""The symmetry that a CIF states -> the groups of operations that it may mean.

Operations that are listed count; names have to agree with them. A name alone may leave open the
axes or the origin: the cell decides what it can, and what is left is more than one group.
"""

import re
from collections.abc import Sequence

import gemmi
import numpy as np

from crystal_diffusion_jax.errors import printable
from crystal_diffusion_jax.structures import space_groups
from crystal_diffusion_jax.structures.cif_blocks import DEFAULT, UNKNOWN, DataBlock
from crystal_diffusion_jax.structures.limits import MAX_IMAGES
from crystal_diffusion_jax.structures.space_groups import TRIVIAL, Group, Setting

_OPERATIONS = (
    "_space_group_symop_operation_xyz",
    "_symmetry_equiv_pos_as_xyz",
    "_space_group_symop_magn_operation_xyz",
)
_CENTRINGS = "_space_group_symop_magn_centering_xyz"
_NUMBERS = ("_space_group_symop_id", "_symmetry_equiv_pos_site_id")
_NAMES = (
    "_symmetry_space_group_name_h-m",
    "_symmetry_space_group_name_h-m_alt",
    "_symmetry_space_group_name_h-m_full",
    "_symmetry_space_group_name_h_m",
    "_space_group_name_h-m",
    "_space_group_name_h-m_alt",
    "_space_group_name_h-m_ref",
    "_space_group_name_h-m_full",
    "_space_group_name_h-m_alternative",
)
_HALL = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
_NUMBER = (
    "_space_group_it_number",
    "_symmetry_int_tables_number",
    "_space_group_int_tables_number",
    "_symmetry_it_number",
)
_CHOICE = "_space_group_it_coordinate_system_code"
_LONGEST_OPERATION = 100  # characters
# Whatever begins with this and has a value states a symmetry.
_SYMMETRY = re.compile("_symmetry_|_space_group_")
# More than three dimensions.
_MODULATED = re.compile("_space_group_(symop_)?ssg_|_cell_wave_vector_|_cell_subsystem_")
# How far an operation may change a cell: relative in a squared length, about radians in an angle.
# Half of it is 0.25 % or 0.15 degrees, far below the difference of any two kinds of axes.
_METRIC_TOLERANCE = 5e-3
# Cells of two settings that fit this much better than a third one do not fit it.
_SAME_FIT = 1e-5


def groups_of(block: DataBlock, lattice: np.ndarray) -> list[Group]:
    """The groups that a block's operations, or else its names, may mean; at least one.

    Args:
      block: a data block with atoms.
      lattice: [3, 3] its cell vectors as rows.

    Raises:
      ValueError: they are unknown, contradict each other or the cell; the message is the reason.
    """
    _refuse_modulation(block)
    listed = _listed(block)
    stated = _stated(block)
    if listed is not None:
        for what, settings in stated:
            _refuse_other_group(listed, what, settings)
        groups = [listed]
    elif stated:
        groups = _meant_by_all(stated)
    else:
        _refuse_unread_symmetry(block)
        groups = [TRIVIAL]
    fitting = _fitting(groups, lattice)
    if not fitting:
        what = "the symmetry operations" if listed else " and ".join(text for text, _ in stated)
        raise ValueError(f"{what}: such a cell cannot have this symmetry")
    return fitting


def is_stated(block: DataBlock) -> bool:
    """Whether a block says anything on symmetry."""
    return bool(_words(block))


def stated_names(block: DataBlock) -> str:
    """What a block calls its space group, for messages."""
    return " and ".join(what for what, _ in _stated(block))


def _listed(block: DataBlock) -> Group | None:
    """The group of the operations that are listed; None if none are."""
    lists = [texts for tag in _OPERATIONS if (texts := _texts(block, tag))]
    images = max(map(len, lists), default=0) * len(block.column("_atom_site_fract_x"))
    if images > MAX_IMAGES:
        raise ValueError(f"too many atoms: {images} images of those listed, at most {MAX_IMAGES}")
    groups = {space_groups.group_of(map(_operation, texts)) for texts in lists}
    if not groups:
        return None
    if len(groups) > 1:
        raise ValueError("two lists of symmetry operations differ")
    (group,) = groups
    if centrings := [_operation(text) for text in _texts(block, _CENTRINGS)]:
        operations = [gemmi.Op(triplet) for triplet in group]
        group = space_groups.group_of(c * o for c in centrings for o in operations)
    if group != TRIVIAL and not space_groups.is_closed(group):
        raise ValueError("the listed symmetry operations are not a group: some are missing")
    return group


def _texts(block: DataBlock, tag: str) -> list[str]:
    values = [text for text in block.column(tag) if text not in (UNKNOWN, DEFAULT)]
    if any(number in block.values for number in _NUMBERS):
        return values
    texts: list[str] = []
    for value in values:  # without quotes, the parts of `x, y, z` are values of their own
        last = texts[-1] if texts else ""
        if texts and len(last) < _LONGEST_OPERATION and not re.search(",.*,.", last):
            texts[-1] += value
        else:
            texts.append(value)
    return texts


def _operation(text: str) -> gemmi.Op:
    # Some programs number the operations within the text, and magnetic ones end in time reversal,
    # which moves no atom.
    triplet = re.sub(r"^\s*\d+[:\s]\s*(?=[-+.\dxyz])|\s", "", text, flags=re.IGNORECASE)
    triplet = re.sub(r"(,[+-]?1)?(,[^,]*m[xyz][^,]*){0,3}$", "", triplet)
    try:
        operation = gemmi.Op(triplet)
    except (ValueError, RuntimeError):
        operation = None
    if operation is None or not re.fullmatch(r"[-+*/.,\dxyz]+", triplet, re.IGNORECASE):
        raise ValueError(f"symmetry operation '{printable(text)}' cannot be read")
    if abs(operation.det_rot()) != gemmi.Op.DEN**3:
        raise ValueError(f"symmetry operation '{printable(text)}' changes volumes")
    return operation


def _stated(block: DataBlock) -> list[tuple[str, list[Setting]]]:
    """What names the space group, each with the settings that it may mean; none if unknown."""
    stated = {}
    for tag in _NAMES:
        if (name := block.get(tag)) is not None:
            stated[f"space group '{printable(name)}'"] = space_groups.settings_of_name(name)
    if (number := block.get(*_NUMBER)) is not None:
        settings = space_groups.settings_of_number(int(number)) if number.isdecimal() else []
        stated[f"space group number {printable(number)}"] = settings
    if (code := block.get(_CHOICE)) is not None:
        choice = code.lower().replace("abc", "")
        stated = {
            f"{what} with axes or origin '{printable(code)}'": [
                setting for setting in settings if setting.is_called(choice)
            ]
            for what, settings in stated.items()
        }
    if (hall := block.get(*_HALL)) is not None:
        stated[f"Hall symbol '{printable(hall)}'"] = space_groups.settings_of_hall(hall)
    return list(stated.items())


def _refuse_other_group(listed: Group, what: str, settings: Sequence[Setting]) -> None:
    """Other axes or another origin than the name's are common; another group is a mistake."""
    if not settings or any(setting.group() == listed for setting in settings):
        return
    number = space_groups.number_of(listed)
    if number not in {setting.number for setting in settings}:
        raise ValueError(
            f"{what} contradicts the symmetry operations that are listed: they are of number "
            f"{number}"
        )


def _meant_by_all(stated: Sequence[tuple[str, Sequence[Setting]]]) -> list[Group]:
    groups: list[Group] | None = None
    for what, settings in stated:
        if not settings:
            raise ValueError(f"{what} is not known: list its symmetry operations in the CIF")
        meant = {setting.group(): None for setting in settings}  # a set, but in order
        groups = [group for group in meant if groups is None or group in groups]
    if not groups:
        raise ValueError(f"{' and '.join(what for what, _ in stated)} contradict each other")
    return groups


def _fitting(groups: Sequence[Group], lattice: np.ndarray) -> list[Group]:
    """Those groups whose operations leave the lengths and angles of the cell as they are."""
    lengths = np.linalg.norm(lattice, axis=1)
    metric = lattice @ lattice.T
    changes = []
    for group in groups:
        rotations, _ = space_groups.as_arrays(group)
        moved = np.swapaxes(rotations, 1, 2) @ metric @ rotations
        changes.append(np.abs((moved - metric) / np.outer(lengths, lengths)).max())
    limit = min(_METRIC_TOLERANCE, min(changes) + _SAME_FIT)
    return [group for group, change in zip(groups, changes, strict=True) if change <= limit]


def _refuse_modulation(block: DataBlock) -> None:
    dimension = block.get("_cell_modulation_dimension")
    if dimension not in (None, "0") or any(map(_MODULATED.match, block.values)):
        raise ValueError("a modulated structure, which no unit cell holds")


def _refuse_unread_symmetry(block: DataBlock) -> None:
    """Without any word on symmetry a CIF is P 1; with words that are not understood it may not."""
    for tag, value in _words(block):
        raise ValueError(
            f"neither symmetry operations nor a space group, but {tag} {printable(value)}"
        )


def _words(block: DataBlock) -> list[tuple[str, str]]:
    return [
        (tag, value)
        for tag, values in block.values.items()
        if _SYMMETRY.match(tag)
        for value in values[:1]
        if value not in (UNKNOWN, DEFAULT)
    ]
