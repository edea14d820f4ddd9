"""The element of an atom of a CIF: by its type symbol, else by its label if that leaves no doubt."""

import functools
import re

from pymatgen.core import Element

from crystal_diffusion_jax.errors import printable

_CHARGE = r"(?:\d+(?:\.\d+)?[+-]|[+-]\d+(?:\.\d+)?|[+-]+|\([IVX]+\))"
_AMOUNT = r"(?:\d*\.?\d*)"
# Fe, FE, Fe3+, Fe+3, Fe(III), Fe1: one or two letters, then a charge or a number.
_TYPE = re.compile(rf"([A-Za-z]{{1,2}})(?:{_CHARGE}|\d*)")
# One part of a mixture: Fe, 0.5Fe, Fe0.5, Fe3+, a vacancy.
_PART = re.compile(rf"{_AMOUNT}\*?(?:([A-Z][a-z]?)|Vac?|vac?){_CHARGE}?{_AMOUNT}")
_ADJACENT = re.compile(rf"([A-Z][a-z]?){_CHARGE}?{_AMOUNT}")
# In labels also the tetrahedral site of a silicate, and water.
_SITES = {"T", "W"}


@functools.lru_cache(maxsize=4096)
def element_of_type(symbol: str) -> str:
    """The element of a type symbol such as `Fe`, `FE` or `Fe3+`; deuterium is `D`.

    Raises:
      ValueError: it is none, or several at once; the message is the reason.
    """
    refuse_mixture(symbol)
    match = _TYPE.fullmatch(symbol.strip())
    if match and Element.is_valid_symbol(element := match[1].capitalize()):
        return element
    parts = list(_ADJACENT.finditer(symbol))
    elements = {part[1] for part in parts}
    # FeNi and Fe0.5Ni0.5 are mixtures, but OH and NH4 are groups.
    whole = "".join(part[0] for part in parts) == symbol
    if whole and len(elements) > 1 and "H" not in elements:
        if all(map(Element.is_valid_symbol, elements)):
            raise ValueError(_mixture(symbol))
    raise ValueError(f"unknown element: '{printable(symbol)}'")


@functools.lru_cache(maxsize=4096)
def element_of_label(label: str, present: frozenset[str]) -> str:
    """The element of a label without a type symbol, such as `Ca1` or `O1W`.

    Args:
      label: of the atom.
      present: the elements that the CIF names elsewhere; empty if it names none.

    Raises:
      ValueError: the label leaves doubt; the message is the reason.
    """
    letters = re.sub("[^A-Za-z].*", "", label, flags=re.DOTALL)
    possible = {letters[:1].upper(), letters[:2].capitalize()}  # C or Ca of CA1
    possible = {element for element in possible if Element.is_valid_symbol(element)}
    exact = Element.is_valid_symbol(letters) and letters not in _SITES
    if present:
        possible = {letters} if exact and letters in present else possible & present
    elif exact:
        possible = {letters}
    elif letters.capitalize() not in possible or letters in _SITES:
        possible = set()  # OW1 may be water without its hydrogen, Vac no atom at all
    if len(possible) != 1:
        raise ValueError(
            f"unknown element: the label '{printable(label)}' does not tell it, and there is no "
            "_atom_site_type_symbol"
        )
    return possible.pop()


@functools.lru_cache(maxsize=4096)
def refuse_mixture(text: str) -> None:
    """Refuses a label or type symbol such as `Nb,Zr`, `(Fe/Ni)1` or `0.5Fe + 0.5Ni`."""
    parts = [part for piece in re.split(r"[,/+&|;:]", text) if (part := piece.strip(" ()[]{}"))]
    # The digits of a label may follow the bracket.
    parts = [re.sub(r"\W+\d*$", "", part) for part in parts]
    if len(parts) > 1 and all(map(_PART.fullmatch, parts)):
        symbols = [match[1] for part in parts if (match := _PART.fullmatch(part))]
        if all(symbol is None or Element.is_valid_symbol(symbol) for symbol in symbols):
            raise ValueError(_mixture(text))


def _mixture(text: str) -> str:
    return f"disorder: several elements on one site, '{printable(text)}'"
