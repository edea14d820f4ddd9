"""Classes of compounds by their anions, in which a potential errs differently."""

from collections.abc import Iterable

from pymatgen.core import Element

_ANIONS = {
    "oxides": {"O"},
    "fluorides": {"F"},
    "other halides": {"Cl", "Br", "I"},
    "chalcogenides": {"S", "Se", "Te"},
    "pnictides": {"N", "P", "As", "Sb", "Bi"},
}
INTERMETALLICS, OTHER = "intermetallics", "other"
CLASSES = (*_ANIONS, INTERMETALLICS, OTHER)


def compound_class(atomic_numbers: Iterable[int]) -> str:
    """One of `CLASSES`: the first whose anion is present, so an oxyfluoride is an oxide.

    Compounds of metals alone are intermetallics. Single elements, borides, carbides, silicides and
    hydrides are "other".
    """
    elements = {Element.from_Z(int(number)) for number in atomic_numbers}
    symbols = {element.symbol for element in elements}
    if len(symbols) > 1:
        for name, anions in _ANIONS.items():
            if symbols & anions:
                return name
        if all(element.is_metal for element in elements):
            return INTERMETALLICS
    return OTHER
