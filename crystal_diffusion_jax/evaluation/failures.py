"""Failures of single crystals: where, why, and the particulars.

Everywhere else a failure is one text, "reason: particulars" or just "reason". The reason is the
same words for the same cause, so that failures can be counted by it; numbers, formulas and messages
of other packages are particulars.
"""

import dataclasses
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why one crystal failed at one stage.

    Attributes:
      index: place in the set, from 0.
      name: its name.
      stage: "reading", "structure", "composition", "property", "comparison" or "fingerprint".
      reason: a few words, equal for equal causes.
      detail: particulars of this crystal, "" without any.
    """

    index: int
    name: str
    stage: str
    reason: str
    detail: str


def split_reason(text: str) -> tuple[str, str]:
    """Reason and detail of a failure's text."""
    reason, _, detail = text.partition(": ")
    return reason, detail


def list_failures(names: Sequence[str], stages: Mapping[str, Mapping[int, str]]) -> list[Failure]:
    """All failures by index, a crystal's in the order of the stages.

    Args:
      names: of all crystals.
      stages: stage -> index -> text.
    """
    return [
        Failure(index, name, stage, *split_reason(texts[index]))
        for index, name in enumerate(names)
        for stage, texts in stages.items()
        if index in texts
    ]
