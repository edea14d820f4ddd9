"""An array whose unpickling would leave a mark."""

import os
from pathlib import Path
from typing import Any

import numpy as np


class _Marks:
    """Unpickles by making a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def objects(mark: Path) -> np.ndarray:
    """An array of one object that makes the folder `mark` when it is unpickled."""
    array = np.empty(1, dtype=object)
    array[0] = _Marks(mark)
    return array
