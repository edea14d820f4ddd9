"""Tables of crystals -> checked, canonical arrays, on all cores.

Canonical means: Niggli-reduced cell, its lattice rebuilt from lengths and angles so that its
orientation is fixed, fractional coordinates in [0, 1) (`structures.canonical`).
"""

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.locate import Source
from crystal_diffusion_jax.data.tables import BadRow, RawCrystal, read_columns, read_table
from crystal_diffusion_jax.data.values import Column
from crystal_diffusion_jax.errors import printable
from crystal_diffusion_jax.runtime.workers import TaskFailure, Workers
from crystal_diffusion_jax.structures.canonical import Cell, canonical_cell
from crystal_diffusion_jax.structures.crystal_files import MAX_REASON, one_crystal

# From about here on two worker processes win back the time that starting them takes (1.4 s).
_MIN_ROWS_FOR_WORKERS = 1000
_CHUNK = 100


def read(
    source: Source, properties: Sequence[str], max_num_atoms: int = 0, progress: bool = True
) -> Iterator[CrystalDataset | BadRow]:
    """Reads, checks and canonicalises a table, a bounded number of rows at a time.

    Args:
      source: where the table is.
      properties: property columns.
      max_num_atoms: a crystal with more atoms is a bad row; 0: no limit.
      progress: show a progress bar on stderr.

    Yields:
      The crystals, some at a time, and the rows that cannot be used, both in order.

    Raises:
      UserError: the table cannot be read, or a column is missing.
    """
    columns = read_columns(source, properties)
    table = read_table(source, columns)
    first = list(itertools.islice(table, _MIN_ROWS_FOR_WORKERS))
    rows, ahead = itertools.tee(itertools.chain(first, table))
    crystals = (row.crystal for row in ahead if isinstance(row, RawCrystal))
    parse = functools.partial(_parse, max_num_atoms)
    good: list[tuple[RawCrystal, Cell]] = []
    with contextlib.ExitStack() as stack:
        cells: Iterator[Cell | str | TaskFailure] = map(parse, crystals)
        if len(first) == _MIN_ROWS_FOR_WORKERS:
            cells = stack.enter_context(Workers(parse, chunksize=_CHUNK)).map(crystals)
        for row in tqdm(rows, desc=source.name, unit=" rows", disable=not progress):
            if isinstance(row, BadRow):
                yield row
                continue
            cell = next(cells)
            if isinstance(cell, Cell):
                good.append((row, cell))
            else:
                reason = cell.reason if isinstance(cell, TaskFailure) else cell
                yield BadRow(row.file, row.row, row.material_id, reason)
            if len(good) == _CHUNK:
                yield _dataset(good, columns)
                good = []
    if good:
        yield _dataset(good, columns)


def _parse(max_num_atoms: int, crystal: str | Path) -> Cell | str:
    """The canonical cell, or the reason why there is none."""
    try:
        return canonical_cell(one_crystal(crystal), max_num_atoms)
    except ValueError as error:
        return printable(str(error), MAX_REASON)


def _dataset(
    crystals: Sequence[tuple[RawCrystal, Cell]], columns: Sequence[Column]
) -> CrystalDataset:
    rows, cells = zip(*crystals, strict=True)
    return CrystalDataset(
        lattice=np.array([cell.lattice for cell in cells]),
        num_atoms=np.array([len(cell.atomic_numbers) for cell in cells], np.int64),
        frac_coords=np.concatenate([cell.frac_coords for cell in cells]),
        atomic_numbers=np.concatenate([cell.atomic_numbers for cell in cells]),
        properties=np.array([row.properties for row in rows]).reshape(len(rows), len(columns)),
        property_names=tuple(column.name for column in columns),
        material_ids=np.array([row.material_id for row in rows], np.str_),
        class_names={column.name: column.class_names for column in columns if column.class_names},
    )
