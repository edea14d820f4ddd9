"""CIF texts -> checked, canonical arrays. The only file of the data layer that needs pymatgen.

Canonical means: Niggli-reduced cell, its lattice rebuilt from lengths and angles so that its
orientation is fixed, fractional coordinates in [0, 1) (`structures.canonical`).
"""

import itertools
from collections.abc import Iterator, Sequence

import joblib
import numpy as np
from tqdm import tqdm

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.locate import Source
from crystal_diffusion_jax.data.prepared import BadRow
from crystal_diffusion_jax.data.tables import RawCrystal, read_table
from crystal_diffusion_jax.errors import UserError, printable
from crystal_diffusion_jax.structures.canonical import Cell, canonical_cell

# Characters of a reason, which may quote pymatgen and so the file.
_MAX_REASON = 300
# From about here on two worker processes win back the time that starting them takes (1.4 s).
_MIN_ROWS_FOR_WORKERS = 1000
_CHUNK = 100


def read(
    source: Source, properties: Sequence[str], max_num_atoms: int = 0, progress: bool = True
) -> Iterator[CrystalDataset | BadRow]:
    """Reads, checks and canonicalises a table on all cores, a bounded number of rows at a time.

    Args:
      source: where the table is.
      properties: columns to read as numbers.
      max_num_atoms: a crystal with more atoms is a bad row; 0: no limit.
      progress: show a progress bar on stderr.

    Yields:
      The crystals, some at a time, and the rows that cannot be used, both in order.

    Raises:
      UserError: the table cannot be read, or a column is missing.
    """
    rows = read_table(source, properties)
    first = list(itertools.islice(rows, _MIN_ROWS_FOR_WORKERS))
    num_jobs = 1 if len(first) < _MIN_ROWS_FOR_WORKERS else -1
    rows = itertools.chain(first, rows)
    errors: list[UserError] = []

    def chunks() -> Iterator[list[RawCrystal | BadRow]]:
        try:
            while chunk := list(itertools.islice(rows, _CHUNK)):
                yield chunk
        except UserError as error:  # joblib would lose it and wait forever
            errors.append(error)

    results = joblib.Parallel(n_jobs=num_jobs, return_as="generator")(
        joblib.delayed(_canonicalise)(chunk, tuple(properties), max_num_atoms) for chunk in chunks()
    )
    with tqdm(desc=source.name, unit=" rows", disable=not progress) as bar:
        for dataset, bad_rows in results:
            bar.update(len(dataset) + len(bad_rows))
            yield dataset
            yield from bad_rows
    if errors:
        raise errors[0]


def _canonicalise(
    rows: Sequence[RawCrystal | BadRow], property_names: tuple[str, ...], max_num_atoms: int
) -> tuple[CrystalDataset, list[BadRow]]:
    good: list[RawCrystal] = []
    cells: list[Cell] = []
    bad_rows: list[BadRow] = []
    for row in rows:
        if isinstance(row, BadRow):
            bad_rows.append(row)
            continue
        try:
            cells.append(canonical_cell(row.cif, max_num_atoms))
            good.append(row)
        except ValueError as error:
            reason = printable(str(error), _MAX_REASON)
            bad_rows.append(BadRow(row.file, row.row, row.material_id, reason))
    no_atoms = Cell(np.zeros((0, 3, 3)), np.zeros((0, 3)), np.zeros(0, np.int64))
    dataset = CrystalDataset(
        lattice=np.array([cell.lattice for cell in cells]).reshape(-1, 3, 3),
        num_atoms=np.array([len(cell.atomic_numbers) for cell in cells], np.int64),
        frac_coords=np.concatenate([cell.frac_coords for cell in (no_atoms, *cells)]),
        atomic_numbers=np.concatenate([cell.atomic_numbers for cell in (no_atoms, *cells)]),
        properties=np.array([row.properties for row in good]).reshape(-1, len(property_names)),
        property_names=property_names,
        material_ids=np.array([row.material_id for row in good], np.str_),
    )
    return dataset, bad_rows
