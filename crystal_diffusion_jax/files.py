"""Whole files or none: text written so that a kill at any moment leaves the old file or the new."""

import os
from pathlib import Path


def temporary_path(path: Path) -> Path:
    """Where `replace_text` prepares the new content; a kill may leave this file behind."""
    return path.with_name(f".{path.name}.tmp")


def replace_text(path: Path, text: str) -> None:
    """Writes a text file beside its place, forces it to the disk and moves it in."""
    temporary = temporary_path(path)
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
