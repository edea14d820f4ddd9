"""Which predicted crystal answers which row of a data set."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.errors import UserError, did_you_mean
from crystal_diffusion_jax.evaluation.diversity import rows_by_composition
from crystal_diffusion_jax.structures.compositions import reduced_composition
from crystal_diffusion_jax.structures.reading import Inputs

BY_ID, BY_COMPOSITION = "material_id", "composition"


@dataclasses.dataclass(frozen=True)
class Answers:
    """Predictions by the row that they answer.

    Attributes:
      by: `BY_ID` or `BY_COMPOSITION`.
      rows: the answered rows, in the order in which they were chosen.
      indices: for each of them its predictions, at least one. By composition, all predictions of
        the composition, so that rows of one composition have the same.
      left_out: why -> how many predictions answer none of the rows.
    """

    by: str
    rows: list[int]
    indices: list[list[int]]
    left_out: dict[str, int]


def assign(inputs: Inputs, dataset: CrystalDataset, rows: Iterable[int], place: str) -> Answers:
    """Finds the rows that predictions answer: by their `material_id`, or else by composition.

    Args:
      inputs: the predictions.
      dataset: the references.
      rows: those that count.
      place: of the references, for messages.

    Raises:
      UserError: a prediction has no `material_id` although others have, or one that no reference
        has; two references have the same; or no row is answered.
    """
    by_row: dict[int, list[int]] = {row: [] for row in rows}
    left_out: Counter[str] = Counter()
    if any(inputs.material_ids):
        row_of = _rows_by_id(dataset, place)
        for index, own in enumerate(inputs.material_ids):
            row = _row(inputs, index, own, row_of, place)
            if row in by_row:
                by_row[row].append(index)
            else:
                left_out["answer a row that was not chosen" if own else "have no material_id"] += 1
        by = BY_ID
    else:
        _by_composition(inputs, dataset, by_row, left_out)
        by = BY_COMPOSITION
    answered = {row: indices for row, indices in by_row.items() if indices}
    if not answered:
        raise UserError(
            f"none of the {len(inputs.structures)} crystals answers one of the {len(by_row)} rows "
            f"of {place}: give them a column material_id, or the split that they were made for."
        )
    return Answers(by, list(answered), list(answered.values()), dict(left_out))


def _rows_by_id(dataset: CrystalDataset, place: str) -> dict[str, int]:
    ids = dataset.material_ids.tolist()
    if len(set(ids)) < len(ids):
        ((twice, _),) = Counter(ids).most_common(1)
        raise UserError(
            f"{place} has more than one row with material_id {twice}: which of them a prediction "
            "answers is not known; rename them."
        )
    return {own: row for row, own in enumerate(ids)}


def _row(inputs: Inputs, index: int, own: str, row_of: dict[str, int], place: str) -> int | None:
    if own in row_of:
        return row_of[own]
    if own:
        raise UserError(
            f"row {index + 1} of the predictions: material_id {own} is not in {place}"
            f"{did_you_mean(own, row_of)}"
        )
    if inputs.structures[index] is None:  # rejected when sampled: its row is not known
        return None
    raise UserError(
        f"row {index + 1} of the predictions ({inputs.names[index]}) has no material_id, but "
        "others have: give each its own."
    )


def _by_composition(
    inputs: Inputs,
    dataset: CrystalDataset,
    by_row: dict[int, list[int]],
    left_out: Counter[str],
) -> None:
    chosen = defaultdict(list)
    for composition, members in rows_by_composition(dataset).items():
        chosen[composition] = [row for row in members if row in by_row]
    for index, crystal in enumerate(inputs.structures):
        if crystal is None:
            left_out["could not be read, so their composition is not known"] += 1
        elif same := chosen.get(reduced_composition(crystal.atomic_numbers)):
            for row in same:
                by_row[row].append(index)
        else:
            left_out["have the composition of no row"] += 1
