"""CIF texts -> checked, canonical arrays. The only file of the data layer that needs pymatgen.

Canonical means: Niggli-reduced cell, its lattice rebuilt from lengths and angles so that its
orientation is fixed, fractional coordinates in [0, 1). pymatgen mends many defects of a CIF with
no more than a Python warning (merged sites, skipped atoms, guessed elements); here each of those
defects is a reason to call the row bad, and the warnings are silenced because they are checked.
"""

from collections.abc import Iterator, Sequence

import joblib
import numpy as np
from tqdm import tqdm

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.prepared import BadRow, Prepared
from crystal_diffusion_jax.data.tables import RawCrystal, Source, read_table
from crystal_diffusion_jax.errors import shown
from crystal_diffusion_jax.structures.canonical import Cell, canonical_cell

# Characters of a reason, which may quote pymatgen and so the file.
_MAX_REASON = 300
# From about here on two worker processes win back the time that starting them takes (1.4 s).
_MIN_ROWS_FOR_WORKERS = 1000
_CHUNK = 100


def read(
    source: Source, properties: Sequence[str], max_num_atoms: int = 0, progress: bool = True
) -> Prepared:
    """Reads, checks and canonicalises every crystal of a table, on all cores.

    Args:
      source: where the table is.
      properties: columns to read as numbers.
      max_num_atoms: a crystal with more atoms is a bad row; 0: no limit.
      progress: show a progress bar on stderr.

    Raises:
      UserError: the table cannot be read, or a column is missing.
    """
    rows, bad_rows = read_table(source, properties)
    cells: list[Cell] = []
    good: list[RawCrystal] = []
    results = _parse_all([row.cif for row in rows], max_num_atoms)
    bar = tqdm(results, total=len(rows), desc=source.table.name, unit="row", disable=not progress)
    for row, result in zip(rows, bar, strict=True):
        if isinstance(result, str):
            bad_rows.append(BadRow(source.table.name, row.row, row.material_id, result))
        else:
            good.append(row)
            cells.append(result)
    # Rows in order; CIF files without a row (number 0) come last.
    bad_rows.sort(key=lambda bad: (bad.row == 0, bad.row))
    return Prepared(_assemble(good, cells, properties), tuple(bad_rows))


def _parse_chunk(cifs: Sequence[str], max_num_atoms: int) -> list[Cell | str]:
    """The canonical cell of each CIF, or the reason why there is none."""
    results: list[Cell | str] = []
    for cif in cifs:
        try:
            results.append(canonical_cell(cif, max_num_atoms))
        except ValueError as error:
            results.append(shown(str(error), _MAX_REASON))
    return results


def _parse_all(cifs: Sequence[str], max_num_atoms: int) -> Iterator[Cell | str]:
    """Results in order, as they come."""
    chunks = [cifs[start : start + _CHUNK] for start in range(0, len(cifs), _CHUNK)]
    num_jobs = 1 if len(cifs) < _MIN_ROWS_FOR_WORKERS else -1
    parallel = joblib.Parallel(n_jobs=num_jobs, return_as="generator")
    for results in parallel(joblib.delayed(_parse_chunk)(chunk, max_num_atoms) for chunk in chunks):
        yield from results


def _assemble(
    rows: Sequence[RawCrystal], cells: Sequence[Cell], properties: Sequence[str]
) -> CrystalDataset:
    num_atoms = [len(cell.atomic_numbers) for cell in cells]
    empty = Cell(np.zeros((0, 3, 3)), np.zeros((0, 3)), np.zeros(0, dtype=np.int64))
    return CrystalDataset(
        lattice=np.array([cell.lattice for cell in cells]).reshape(-1, 3, 3),
        num_atoms=np.array(num_atoms, dtype=np.int64),
        frac_coords=np.concatenate([empty.frac_coords, *(cell.frac_coords for cell in cells)]),
        atomic_numbers=np.concatenate(
            [empty.atomic_numbers, *(cell.atomic_numbers for cell in cells)]
        ),
        properties=np.array([row.properties for row in rows], dtype=np.float64).reshape(
            len(rows), len(properties)
        ),
        property_names=tuple(properties),
        material_ids=np.array([row.material_id for row in rows], dtype=np.str_),
    )
