"""What callers may give, and how it becomes what the library takes."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ase
from pymatgen.core import Structure

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.structures.sampled_crystals import SampledCrystals

# Imported when it is asked for.
if TYPE_CHECKING:
    from crystal_diffusion_jax.structures.reading import Inputs

# Target of one property: a value, "min" or "max", (lowest, highest), or the name of a class.
Asked = float | str | tuple[float, float] | list[float]
Crystal = Structure | ase.Atoms
# One or several, or the path of files that hold them.
Crystals = Crystal | Sequence[Crystal] | str | Path


def to_stderr(line: str) -> None:
    """Where progress lines go by default."""
    print(line, file=sys.stderr)


def as_flags(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `Model.sample` as the flags of the same names take them.

    Raises:
      UserError: a range in the target that has not two ends.
    """
    convert: dict[str, Callable[[Any], str | None]] = {
        "target": _target,
        "elements": _joined,
        "chemical_system": _joined,
        "formula": _joined,
        "formula_units": _text,
        "like": _text,
    }
    return {name: convert.get(name, lambda same: same)(value) for name, value in asked.items()}


def _text(value: str | int | Path | None) -> str | None:
    return None if value is None else str(value)


def _joined(several: str | Path | Sequence[str] | None) -> str | None:
    """A list separated by commas; a text or the path of a file as it is."""
    if several is None or isinstance(several, str | Path):
        return _text(several)
    return ",".join(several)


def _target(target: Asked | Mapping[str, Asked] | None) -> str:
    def one(asked: Asked) -> str:
        if isinstance(asked, tuple | list):
            if len(asked) != 2:
                raise UserError(f"target={asked!r}: a range is (lowest, highest)")
            return ":".join(map(one, asked))
        return asked if isinstance(asked, str) else repr(float(asked))

    if target is None:
        return "none"
    if isinstance(target, Mapping):
        return ",".join(f"{name}={one(asked)}" for name, asked in target.items()) or "none"
    return one(target)


def as_structures(crystals: Crystals) -> list[Structure]:
    """One or several crystals, or a file of them, as pymatgen structures.

    Raises:
      UserError: a file that cannot be read, or a crystal that cannot be used.
    """
    if isinstance(crystals, str | Path):
        from crystal_diffusion_jax.structures.reading import read_structures

        inputs = read_structures(Path(crystals))
        for index, reason in inputs.failures.items():
            raise UserError(f"{crystals}: {inputs.names[index]} cannot be used: {reason}")
        return [structure for structure in inputs.structures if structure is not None]
    several = [crystals] if isinstance(crystals, Structure | ase.Atoms) else crystals
    from crystal_diffusion_jax.structures.conversion import from_ase

    structures = [from_ase(one) if isinstance(one, ase.Atoms) else one for one in several]
    for place, structure in enumerate(structures):
        if not structure.is_ordered:
            raise UserError(
                f"crystal {place} has sites shared by several elements, or partly empty: order it "
                "first, for example with pymatgen's OrderDisorderedStructureTransformation"
            )
    return structures


def as_inputs(crystals: Crystal | Sequence[Crystal], material_ids: Sequence[str]) -> "Inputs":
    """Crystals and the references that they answer."""
    from crystal_diffusion_jax.structures.reading import Inputs

    if isinstance(crystals, SampledCrystals) and crystals.request.material_ids and not material_ids:
        asked: list[Structure | None] = [None] * crystals.request.num
        for index, structure in zip(crystals.indices, crystals, strict=True):
            asked[index] = structure
        names = [f"sample {index}" for index in range(len(asked))]
        failures = {
            index: f"rejected when sampled: {reason}" for index, reason in crystals.rejected.items()
        }
        return Inputs(asked, names, failures, crystals.request.material_ids)
    structures = as_structures(crystals)
    if material_ids and len(material_ids) != len(structures):
        raise UserError(
            f"{len(material_ids)} material_ids for {len(structures)} crystals: give each one"
        )
    names = [f"crystal {index}" for index in range(len(structures))]
    return Inputs([*structures], names, {}, list(material_ids))
