"""What can be said of a CIF before it is parsed."""

import re
from collections import Counter

from crystal_diffusion_jax.structures.limits import MAX_CIF_CHARACTERS, MAX_CIF_LINE

# Of a name that comes twice in a data block pymatgen keeps the last.
_ONLY_ONCE = re.compile(
    r"(?<!\S)_(?:cell_length_[abc]|cell_angle_(?:alpha|beta|gamma)|atom_site_fract_[xyz])(?!\S)"
)


def checked_text(cif: str) -> str:
    """Refuses a text that a parser would take minutes for, or would keep only a part of.

    Returns:
      The text without blank lines, as pymatgen's search for data blocks is quadratic in them.

    Raises:
      ValueError: the message is the reason.
    """
    if len(cif) > MAX_CIF_CHARACTERS:
        raise ValueError(f"too large: a CIF of {len(cif):,} characters")
    lines = [line for line in cif.splitlines() if line.strip()]
    if max(map(len, lines), default=0) > MAX_CIF_LINE:
        raise ValueError(f"unparsable CIF: a line is longer than {MAX_CIF_LINE} characters")
    cif = "\n".join(lines)
    first, *blocks = re.split(r"^[^\S\n]*data_", cif, flags=re.MULTILINE)
    headers = [block.split(maxsplit=1)[0] if block[:1].strip() else "" for block in blocks]
    if len(set(headers)) != len(headers):
        raise ValueError("unparsable CIF: two data blocks have the same name")
    for block in (first, *blocks):
        counts = Counter(_ONLY_ONCE.findall(block))
        for name, count in counts.items():
            if count > 1:
                raise ValueError(f"unparsable CIF: {name} is there twice")
    return cif
