"""CIF text -> its data blocks: tags in one spelling, values without quotes.

The syntax is gemmi's work: text fields, quotes, comments and loops are told apart as the standard
says (https://www.iucr.org/resources/cif/spec/version1.1), and what is broken is named by its line.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import Any

from gemmi import cif

from crystal_diffusion_jax.errors import printable
from crystal_diffusion_jax.structures.limits import MAX_CIF_CHARACTERS, MAX_CIF_LINE

# Typographic characters in hand-made files that stand for ASCII: a minus sign, en dash, no-break
# space, soft line ends.
_ASCII = str.maketrans({"\u2212": "-", "\u2013": "-", "\u00a0": " ", "\u0085": "\n"})
UNKNOWN, DEFAULT = "?", "."


@dataclasses.dataclass(frozen=True)
class DataBlock:
    """One data block.

    Attributes:
      name: what follows `data_`.
      values: by tag, the values of a loop's column, or the only one. Tags are in lower case, as
        case does not matter, and with `_` for the `.` of CIF 2 and mmCIF: `_cell_length_a`.
    """

    name: str
    values: dict[str, list[str]]

    def get(self, *tags: str) -> str | None:
        """The first of these tags that has a value other than `?` and `.`; None if none has."""
        for tag in tags:
            given = [text for text in self.values.get(tag, []) if text not in (UNKNOWN, DEFAULT)]
            if len(given) > 1:
                raise ValueError(f"unparsable CIF: {tag} has several values")
            if given and (text := given[0].strip()):
                return text
        return None

    def column(self, tag: str) -> list[str]:
        """The values of a tag, of which a loop may have any number."""
        return self.values.get(tag, [])


def read_blocks(text: str) -> list[DataBlock]:
    """All data blocks of a CIF, in order.

    Raises:
      ValueError: it is too large, or no CIF; the message is the reason.
    """
    if len(text) > MAX_CIF_CHARACTERS:
        raise ValueError(f"too large: a CIF of {len(text):,} characters")
    lines = text.removeprefix("\ufeff").translate(_ASCII).splitlines()
    if not any(line.strip() for line in lines):
        raise ValueError("empty file")
    if max(map(len, lines)) > MAX_CIF_LINE:
        raise ValueError(f"unparsable CIF: a line is longer than {MAX_CIF_LINE} characters")
    # The standard allows ASCII alone, and of other characters gemmi refuses those outside quotes.
    ascii_text = "\n".join(lines).encode("ascii", "xmlcharrefreplace").decode()
    try:
        document = cif.read_string(ascii_text)
    except (ValueError, RuntimeError) as error:
        reason = re.sub(r"^string:(\d+)(:\S+)?", r"line \1", str(error))
        raise ValueError(f"unparsable CIF: {reason.removeprefix('string: ')}") from error
    return [DataBlock(block.name, dict(_values(block))) for block in document]


def _values(block: cif.Block) -> Iterator[tuple[str, list[str]]]:
    seen: set[str] = set()
    items: Iterable[Any] = block  # gemmi's annotations say that each has a loop and a frame
    for item in items:
        if item.frame is not None:
            raise ValueError("unparsable CIF: it has save frames, as dictionaries have")
        if item.loop is not None:
            tags, values = item.loop.tags, item.loop.values
            columns = [values[i :: len(tags)] for i in range(len(tags))]
        else:
            tags, columns = [item.pair[0]], [[item.pair[1]]]
        for tag, column in zip(tags, columns, strict=True):
            key = tag.lower().replace(".", "_")
            if key in seen:
                raise ValueError(f"unparsable CIF: {printable(tag)} occurs twice")
            seen.add(key)
            yield key, [_unquoted(value) for value in column]


def _unquoted(value: str) -> str:
    # gemmi's as_string makes nothing of `.` and `?`.
    return value if value[0] not in "'\";" else cif.as_string(value)
