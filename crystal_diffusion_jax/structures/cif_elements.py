"""The element of an atom of a CIF: by its type symbol, else by its label where that tells."""

import functools
import re

from pymatgen.core import Element

from crystal_diffusion_jax.errors import printable

_CHARGE = r"(?:\d+(?:\.\d+)?[+-]|[+-]\d+(?:\.\d+)?|[+-]+|\([IVX]+\))"
_AMOUNT = r"(?:\d*\.?\d*)"
# Fe, FE, Fe3+, Fe+3, Fe(III), Fe1: one or two letters, then a charge or a number.
_TYPE = re.compile(rf"([A-Za-z]{{1,2}})(?:{_CHARGE}|(\d*))")
# One part of a mixture: Fe, 0.5Fe, Fe0.5, Fe3+, a vacancy.
_PART = re.compile(rf"{_AMOUNT}\*?(?:Vac?|vac?|([A-Z][a-z]?)){_CHARGE}?{_AMOUNT}")
_ADJACENT = re.compile(rf"([A-Z][a-z]?){_CHARGE}?{_AMOUNT}")
_WITH_AMOUNTS = re.compile(r"[A-Z][a-z]?0?\.\d+\s*[A-Z][a-z]?0?\.\d+")
# Beyond it elements are rarer than groups written in capitals: NO, CN, NH.
_LAST_IN_CAPITALS = 96
# In labels also the tetrahedral site of a silicate, and water.
_SITES = {"T", "W"}


@functools.lru_cache(maxsize=4096)
def element_of_type(symbol: str) -> str:
    """The element of a type symbol such as `Fe`, `FE` or `Fe3+`; deuterium is `D`.

    Raises:
      ValueError: it is none, or several at once; the message is the reason.
    """
    _refuse_mixture(symbol, r"[,/+&|;:_\s]")
    match = _TYPE.fullmatch(symbol.strip())
    if match and _is_element(letters := match[1], bool(match[2])):
        return letters.capitalize()
    parts = list(_ADJACENT.finditer(symbol))
    elements = {part[1] for part in parts}
    # FeNi and Fe0.5Ni0.5 are mixtures, but OH and NH4 are groups.
    whole = len(elements) > 1 and "".join(part[0] for part in parts) == symbol
    if whole and "H" not in elements and all(map(Element.is_valid_symbol, elements)):
        raise ValueError(_mixture(symbol))
    raise ValueError(f"unknown element: '{printable(symbol)}'")


def _is_element(letters: str, numbered: bool) -> bool:
    """Fe, FE and fe are iron, but CO2 and NH4 are no cobalt and no nihonium."""
    element = letters.capitalize()
    if not Element.is_valid_symbol(element):
        return False
    return letters == element or (not numbered and Element(element).Z <= _LAST_IN_CAPITALS)


@functools.lru_cache(maxsize=4096)
def element_of_label(label: str, present: frozenset[str]) -> str:
    """The element of a label without a type symbol, such as `Ca1` or `O1W`.

    Args:
      label: of the atom.
      present: the elements that the CIF names elsewhere; empty if it names none.

    Raises:
      ValueError: the label leaves doubt; the message is the reason.
    """
    # Letters after a hyphen belong to them: O-H is not O alone.
    joined = re.sub(r"(?<=[A-Za-z])-(?=[A-Za-z])", "", label)
    letters = re.split("[^A-Za-z]", joined, maxsplit=1)[0]
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
def refuse_mixture_label(label: str) -> None:
    """Refuses a label such as `Nb,Zr`, `(Fe/Ni)1` or `0.5Fe + 0.5Ni`, whatever the type symbol."""
    _refuse_mixture(label, r"[,/+&|]")
    if _WITH_AMOUNTS.match(label):
        raise ValueError(_mixture(label))


def _refuse_mixture(text: str, separators: str) -> None:
    # Amounts may be parts of their own, and the digits of a label follow its bracket.
    parts = [part.strip(" ()[]{}") for part in re.split(separators, text)]
    parts = [re.sub(r"\W+\d*$", "", part) for part in parts if re.search("[A-Za-z]", part)]
    matches = [_PART.fullmatch(part) for part in parts]
    if len(parts) > 1 and all(
        match and (match[1] is None or Element.is_valid_symbol(match[1])) for match in matches
    ):
        raise ValueError(_mixture(text))


def _mixture(text: str) -> str:
    return f"disorder: several elements on one site, '{printable(text)}'"
