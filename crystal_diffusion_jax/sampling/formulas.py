"""Formulas as users write them: a list, a table, or the compositions of a data set."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.config import DataConfig
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.chosen_rows import chosen_rows
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS, SPLITS
from crystal_diffusion_jax.data.load import load, load_table
from crystal_diffusion_jax.data.values import MISSING
from crystal_diffusion_jax.errors import UserError, did_you_mean, printable
from crystal_diffusion_jax.request import FormulaRequest
from crystal_diffusion_jax.sampling.parse import parse_value, requested_classes
from crystal_diffusion_jax.sampling.sizes import known_sizes
from crystal_diffusion_jax.structures.compositions import SYMBOLS, cell_formula, formula_counts
from crystal_diffusion_jax.structures.csv_tables import Row, join_names, read_rows
from crystal_diffusion_jax.structures.file_names import is_table
from crystal_diffusion_jax.structures.limits import MAX_ATOMS, MAX_NAME
from crystal_diffusion_jax.trained_model import TrainedModel

_LOGGER = logging.getLogger("crystal_diffusion_jax")
AUTO = "auto"
# The request is stored with all of them, and read at each batch.
_MAX_FORMULAS = 20_000
_MAX_NAMED = 5
_WHOLE = re.compile(r"([0-9]{1,9})(?:\.0*)?")


def requested_formulas(
    model: TrainedModel, name: str, formula: str | None, formula_units: str, like: str | None
) -> tuple[FormulaRequest, ...]:
    """The formulas that are asked for; () for none.

    Args:
      model: the model.
      name: path or name of the model as the user gave it.
      formula: formulas separated by commas, or the path of a csv with a column `formula`.
      formula_units: "auto", or how many formula units as written are in the cell.
      like: DATASET:SPLIT, DATASET:SPLIT:N, FILE.csv or FILE.csv:N: the compositions of its cells,
        of the N rows that stand for all (`data.chosen_rows`).

    Raises:
      UserError: a formula that cannot be read or does not fit the model, or a model that cannot
        keep a composition.
    """
    if formula is None and like is None:
        return ()
    if not model.predicts:
        able = [
            shipped
            for shipped in trained_model.shipped_names()
            if trained_model.load(shipped).predicts
        ]
        raise UserError(
            f"--{'formula' if like is None else 'like'}: {name} never saw a crystal's formula "
            "while it was trained (loss.species_given=0), so it cannot predict the structure of "
            f"one; of the shipped models these can: {', '.join(able) or 'none'}"
        )
    if like is not None:
        found = _of_data(like, model)
    elif formula is not None and is_table(Path(formula)):
        found = _of_table(Path(formula), _units(formula_units), model)
    else:
        found = [
            _checked(FormulaRequest(text.strip(), _units(formula_units)), model, "--formula")
            for text in (formula or "").split(",")
        ]
    if len(found) > _MAX_FORMULAS:
        raise UserError(
            f"{len(found)} formulas are more than one request takes, {_MAX_FORMULAS}: divide them"
        )
    return tuple(found)


def _units(text: str) -> int:
    """The flag --formula_units as a number, 0 for "auto"."""
    if text == AUTO:
        return 0
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= number <= MAX_ATOMS:
        raise UserError(
            f"--formula_units={text} must be {AUTO}, or how many formula units are in the cell"
        )
    return number


def _checked(asked: FormulaRequest, model: TrainedModel, where: str) -> FormulaRequest:
    """The same, if it fits the model; `where` names it in messages.

    Raises:
      UserError: it does not fit.
    """
    try:
        if misfit := _misfit(asked, model):
            raise ValueError(misfit)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    return asked


def _misfit(asked: FormulaRequest, model: TrainedModel) -> str:
    """Why a formula does not fit the model, "" if it does."""
    statistics = model.statistics
    counts = formula_counts(asked.formula)
    strange = [SYMBOLS[number] for number, _ in counts if number not in statistics.vocabulary]
    if strange:
        known = ",".join(SYMBOLS[number] for number in statistics.vocabulary)
        return f"{asked.formula} has {', '.join(strange)}, and the model only knows {known}"
    sizes = [size for size, _ in statistics.num_atoms_histogram]
    atoms = asked.formula_units * sum(count for _, count in counts)
    if asked.formula_units and not sizes[0] <= atoms <= sizes[-1]:
        return (
            f"{asked.formula_units} of {asked.formula} in a cell are {atoms} atoms, and the model "
            f"only knows cells of {known_sizes(statistics)}"
        )
    return ""


def _of_table(path: Path, units: int, model: TrainedModel) -> list[FormulaRequest]:
    """The formulas of a csv, with their own numbers of atoms, ids and targets."""
    conditioned = model.config.model.conditioning != "none"
    properties = model.statistics.property_names if conditioned else ()
    header, rows = read_rows(path, properties)
    if "formula" not in header:
        raise UserError(
            f"--formula={path} has no column formula, only {join_names(header)}"
            f"{did_you_mean('formula', header)}"
        )
    columns = [name for name in properties if name in header]
    unused = [
        name for name in header if name not in {"formula", "num_atoms", "material_id", *columns}
    ]
    found = [
        _of_row(row, units, columns, model, f"{path}, row {number}")
        for number, row in enumerate(rows, start=1)
    ]
    if not found:
        raise UserError(f"--formula={path} has no row with a formula")
    if any(each.material_id for each in found) and not all(each.material_id for each in found):
        number = 1 + [each.material_id for each in found].index("")
        raise UserError(
            f"{path}, row {number} has no material_id, but others have: give each its own"
        )
    if unused:
        known = ["num_atoms", "material_id", *properties]
        _LOGGER.warning("%s: columns not used: %s", path, join_names(unused))
        _LOGGER.warning("columns that are, besides formula: %s", join_names(known))
    return found


def _of_row(
    row: Row, units: int, columns: Sequence[str], model: TrainedModel, where: str
) -> FormulaRequest:
    cells = {name: (cell or "").strip() for name, cell in row.items() if name is not None}
    if None in row:
        raise UserError(f"{where} has more cells than the header has columns")
    target = {
        name: parse_value(cells[name], name, model.statistics, f"{where}, {name}")
        for name in columns
        if cells[name].lower() not in MISSING
    }
    own_id = cells.get("material_id", "")
    if len(own_id) > MAX_NAME:
        raise UserError(f"{where}: material_id is longer than {MAX_NAME} characters")
    formula, num_atoms = cells["formula"], cells.get("num_atoms", "")
    if num_atoms.lower() not in MISSING:
        if units:
            raise UserError(
                f"{where} has a num_atoms, which --formula_units={units} contradicts: leave one out"
            )
        units = _units_of(formula, num_atoms, where)
    asked = FormulaRequest(
        formula,
        units,
        printable(own_id, MAX_NAME),
        target,
        requested_classes(target, model.statistics),
    )
    return _checked(asked, model, where)


def _units_of(formula: str, num_atoms: str, where: str) -> int:
    """How many formula units make a number of atoms."""
    try:
        in_unit = sum(count for _, count in formula_counts(formula))
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    # pandas writes whole numbers as 5.0 where other rows of the column are empty.
    whole = _WHOLE.fullmatch(num_atoms)
    atoms = int(whole[1]) if whole else 0
    if atoms < 1 or atoms % in_unit:
        raise UserError(
            f"{where}: num_atoms={printable(num_atoms)} must be a multiple of the {in_unit} atoms "
            f"in {formula}"
        )
    return atoms // in_unit


def _of_data(text: str, model: TrainedModel) -> list[FormulaRequest]:
    """The compositions of the chosen rows of a data set; those that do not fit are left out."""
    dataset, num = _data(text)
    if num > len(dataset):
        raise UserError(
            f"--like={text} has only {len(dataset)} rows: ask for fewer, or leave :N out"
        )
    offsets, found, left_out = dataset.offsets, [], []
    for row in chosen_rows(len(dataset), num):
        numbers = np.asarray(dataset.atomic_numbers[offsets[row] : offsets[row + 1]])
        asked = FormulaRequest(cell_formula(numbers), 1, str(dataset.material_ids[row]))
        if misfit := _misfit(asked, model):
            left_out.append(f"{asked.material_id} ({misfit})")
        else:
            found.append(asked)
    if not found:
        raise UserError(f"--like={text}: no crystal fits the model, for example {left_out[0]}")
    if left_out:
        _LOGGER.warning(
            "--like=%s: %d of %d crystals do not fit the model and are left out: %s",
            text,
            len(left_out),
            len(left_out) + len(found),
            "; ".join(left_out[:_MAX_NAMED] + ["..."] * (len(left_out) > _MAX_NAMED)),
        )
    return found


def _data(text: str) -> tuple[CrystalDataset, int]:
    """The data set of --like, and the number of rows to choose, 0 for all."""
    place, _, last = text.rpartition(":")
    number = place != "" and last.isascii() and last.isdigit()
    num = int(last) if number else 0
    place = place if number else text
    if number and num == 0:
        raise UserError(f"--like={text}: give at least one row, or leave the number out for all")
    if is_table(Path(place)):
        return load_table(Path(place)), num
    name, _, split = place.partition(":")
    if name not in KNOWN_DATASETS:
        raise UserError(
            f"--like={text} must be DATASET:SPLIT or DATASET:SPLIT:N, with a data set among "
            f"{', '.join(KNOWN_DATASETS)}, or the path of a csv of crystals"
            f"{did_you_mean(name, KNOWN_DATASETS)}"
        )
    if split not in SPLITS:
        raise UserError(
            f"--like={text}: the splits of {name} are {', '.join(SPLITS)}, as in --like={name}:test"
        )
    return load(DataConfig(name=name), splits=(split,))[split], num
