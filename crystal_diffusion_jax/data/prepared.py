"""Prepared: the usable crystals of one table beside a record of every row that is not usable."""

import dataclasses
import logging
from collections.abc import Iterable

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.errors import UserError

_LOGGER = logging.getLogger("crystal_diffusion_jax")
_MAX_LISTED = 10
_MAX_LOGGED = 3


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that no crystal could be made of.

    Attributes:
      file: name of the table, or of a CIF file that no row names.
      row: data row counted from 1, the header not counted; 0 for a CIF file without a row.
      material_id: the row's identifier.
      reason: what is wrong with it.
    """

    file: str
    row: int
    material_id: str
    reason: str

    def __str__(self) -> str:
        place = f"{self.file} row {self.row}" if self.row else self.file
        return f"{place} ({self.material_id}): {self.reason}"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """One table after reading.

    Attributes:
      dataset: the usable crystals, in the order of their rows.
      bad_rows: the others.
    """

    dataset: CrystalDataset
    bad_rows: tuple[BadRow, ...]


def settle_bad_rows(tables: Iterable[Prepared], place: str, skip_bad_rows: bool) -> None:
    """Refuses bad rows, or says in one log line which rows go without.

    Args:
      tables: all tables of one data set.
      place: the folder or file they come from, for the messages.
      skip_bad_rows: go on without the bad rows.

    Raises:
      UserError: there are bad rows and `skip_bad_rows` is false.
    """
    tables = list(tables)
    bad_rows = [bad for table in tables for bad in table.bad_rows]
    if not bad_rows:
        return
    total = len(bad_rows) + sum(len(table.dataset) for table in tables)
    if skip_bad_rows:
        first = "; ".join(str(bad) for bad in bad_rows[:_MAX_LOGGED])
        more = "; ..." if len(bad_rows) > _MAX_LOGGED else ""
        _LOGGER.warning(
            "dropped %d bad rows of %d in %s: %s%s", len(bad_rows), total, place, first, more
        )
        return
    listed = "".join(f"\n  {bad}" for bad in bad_rows[:_MAX_LISTED])
    if len(bad_rows) > _MAX_LISTED:
        listed += f"\n  ... and {len(bad_rows) - _MAX_LISTED} more"
    raise UserError(
        f"{len(bad_rows)} of {total} rows in {place} cannot be used (rows are counted from 1 "
        f"after the header):{listed}\nMend them, or go on without them: "
        "--skip_bad_rows (--config.data.skip_bad_rows=True for experiments.train)."
    )
