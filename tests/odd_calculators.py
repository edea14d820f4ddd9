"""ASE calculators that misbehave, for `--potential=ase:tests.odd_calculators.NAME`."""

import os
import time
from typing import Any

import numpy as np
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.calculators.emt import EMT

# ruff: noqa: RUF012, ASE's calculators declare their properties like this


class Constant(Calculator):
    """No forces and no stress anywhere; moments of 1, 2, 3, ..."""

    implemented_properties = ["energy", "forces", "stress", "magmoms"]
    energy = -2.0
    pull = 0.0  # stress, eV/A^3; negative makes the cell grow

    def calculate(self, atoms: Any = None, *args: Any, **named: Any) -> None:
        super().calculate(atoms, *args, **named)
        results = {
            "energy": self.energy,
            "forces": np.zeros((len(atoms), 3)),
            "stress": self.pull * np.array([1.0, 1, 1, 0, 0, 0]),
            "magmoms": np.arange(1.0, len(atoms) + 1),
        }
        self.results = {name: results[name] for name in self.implemented_properties}


class Exploding(Constant):
    pull = -1.0


class Imploding(Constant):
    pull = 1.0


class NotFinite(Constant):
    energy = np.nan


class Raising(Constant):
    def calculate(self, *_: Any, **__: Any) -> None:
        raise PropertyNotImplementedError("nothing\nat all")


class Deadly(Constant):
    """Ends its process for cells that hold copper."""

    def calculate(self, atoms: Any = None, *args: Any, **named: Any) -> None:
        if 29 in atoms.numbers:
            os._exit(1)
        super().calculate(atoms, *args, **named)


class Endless(Constant):
    """Never ends for cells that hold copper."""

    def calculate(self, atoms: Any = None, *args: Any, **named: Any) -> None:
        while 29 in atoms.numbers:
            pass
        super().calculate(atoms, *args, **named)


class HeldEMT(EMT):
    """ASE's EMT, which never ends for gold while HOLD is in the environment."""

    def calculate(self, atoms: Any = None, *args: Any, **named: Any) -> None:
        while 79 in atoms.numbers and "HOLD" in os.environ:
            time.sleep(1)
        super().calculate(atoms, *args, **named)


class WithoutStress(Constant):
    implemented_properties = ["energy", "forces"]


class NeedsArguments(Constant):
    def __init__(self, model: str) -> None:
        super().__init__()


class NoCalculator:
    pass
