"""An output folder that cannot be written: one sentence, whoever finds out."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime.files import writing_to

GOES_ON = ": what is complete is kept, and the same command continues once it can be."


def test_a_file_that_cannot_be_written_becomes_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught, writing_to(tmp_path):
        (tmp_path / "missing" / "file").write_text("")
    said = f"--out={tmp_path} cannot be written (No such file or directory)"
    assert str(caught.value) == said + GOES_ON


def test_a_database_that_is_full_becomes_a_sentence(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as database:
        database.execute("CREATE TABLE texts (text)")
        database.execute("PRAGMA max_page_count = 2")
        with pytest.raises(UserError) as caught, writing_to(tmp_path):
            database.execute("INSERT INTO texts VALUES (?)", ("a" * 100_000,))
    said = f"--out={tmp_path} cannot be written (database or disk is full)"
    assert str(caught.value) == said + GOES_ON
