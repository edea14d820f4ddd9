"""samples.json: settings, counts and every written structure in full precision."""

import dataclasses
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from crystal_diffusion_jax import __version__
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.request import SampleSettings
from crystal_diffusion_jax.runtime.files import MAX_RECORD_BYTES, TooLarge, read_json
from crystal_diffusion_jax.sampling.journal import Journal

FORMAT_VERSION = 1


def counts(num: int, journal: Journal) -> dict[str, Any]:
    """Numbers of crystals: requested, written, rejected, and rejected_by_reason."""
    return {
        "requested": num,
        "written": journal.written,
        "rejected": journal.reasons.total(),
        "rejected_by_reason": dict(sorted(journal.reasons.items())),
    }


def pieces(settings: SampleSettings, journal: Journal) -> Iterator[str]:
    """Text of the record, one line a structure; never all of it in memory at once.

    Args:
      settings: the request.
      journal: its crystals.
    """
    requested = list(settings.conditions.values())
    head = {
        "format_version": FORMAT_VERSION,
        "versions": {
            "crystal_diffusion_jax": __version__,
            **{package: version(package) for package in ("jax", "pymatgen", "spglib")},
        },
        "settings": dataclasses.asdict(settings),
        "target": requested[0] if len(requested) == 1 else None,
        "counts": counts(settings.num, journal),
        "seconds": journal.seconds,
        "network_calls": journal.network_calls,
        "rejected": [crystal["rejected"] for crystal in journal.rejected()],
    }
    lines = [f"{json.dumps(key)}: {json.dumps(x, allow_nan=False)}" for key, x in head.items()]
    yield "{\n" + ",\n".join(lines) + ',\n"structures": [\n'
    separator = ""
    for crystal in journal.structures():
        yield separator + json.dumps(crystal["structure"], allow_nan=False)
        separator = ",\n"
    yield "\n]\n}\n"


def read(path: Path) -> dict[str, Any]:
    """The record in `path`.

    Raises:
      UserError: it is damaged, too large, or was written by another version.
    """
    try:
        record = read_json(path, MAX_RECORD_BYTES)
        complete = {"settings", "seconds", "network_calls", "rejected", "structures"} <= set(record)
        if complete and record["format_version"] == FORMAT_VERSION:
            return dict(record)
    except TooLarge as error:
        raise UserError(
            f"{path} is too large to be gone on with ({error}): choose another --out."
        ) from error
    except (ValueError, TypeError, KeyError):
        pass
    raise damaged(path)


def damaged(path: Path) -> UserError:
    """The error to raise for a record that does not hold what it should."""
    return UserError(
        f"{path} is damaged or was written by another version: choose another --out, or remove "
        "the folder."
    )
