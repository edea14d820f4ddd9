"""How many crystals are left after each check, from what their rows in samples.db say."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from crystal_diffusion_jax.discovery.plan import Plan
from crystal_diffusion_jax.discovery.screen import SUFFIX
from crystal_diffusion_jax.request import Part
from crystal_diffusion_jax.runtime.files import replace_text

FILE = "funnel.json"
# Those with checks, and the first.
STAGES = ("sample", "screen", "relax", "judge", "rank")

# Index of a written crystal -> its values by name.
Rows = Mapping[int, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Check:
    """A condition that a crystal meets or not.

    Attributes:
      stage: that finds out.
      name: in funnel.json.
      text: in words, after a number.
      meets: whether the values of a crystal meet it.
    """

    stage: str
    name: str
    text: str
    meets: Callable[[Mapping[str, Any]], bool]


def checks(plan: Plan) -> list[Check]:
    """The checks of a plan, in their order; what cannot be known is not among them."""
    settings, found = plan.settings, []

    def add(stage: str, name: str, text: str, column: str) -> None:
        found.append(Check(stage, name, text, lambda row: bool(row.get(column))))

    def add_known(stage: str, name: str, text: str, column: str) -> None:
        found.append(Check(stage, name, text, lambda row: row.get(column) is not None))

    places = ["the training set"] if plan.training_source else []
    places += ["--known"] if settings.known else []
    not_in = f"not in {' or '.join(places)}"
    add("screen", "valid", "valid", "valid")
    if plan.tolerance is not None and plan.spec is not None:
        text = f"predicted within {plan.tolerance:g} {plan.spec.unit} of the target"
        add("screen", "in_tolerance", text, "in_tolerance")
    compared = Check(
        "screen",
        "unique",
        "unique",
        lambda row: "same_as" not in row and "comparison_failure" not in row,
    )
    found.append(compared)
    if plan.known:
        add("screen", "new", not_in, "new")
    add("relax", "relaxed", "relaxed", "relaxed_converged")
    add_known("relax", "kept_structure", "kept their structure", "relaxed_rmsd")
    if plan.tolerance is not None and plan.spec is not None:
        column = f"predicted_{plan.spec.property_name}{SUFFIX}"
        add_known("judge", f"predicted{SUFFIX}", "with a prediction after relaxing", column)
    if plan.hull is not None:
        found.append(
            Check(
                "judge",
                "near_hull",
                f"less than {settings.max_e_hull:g} eV/atom above the hull",
                lambda row: (
                    row.get("relaxed_energy_above_hull", settings.max_e_hull) < settings.max_e_hull
                ),
            )
        )
    if plan.known:
        add("judge", f"new{SUFFIX}", f"still {not_in}", f"new{SUFFIX}")
    add_known("rank", "different", "different after relaxing", "score")
    add_known("rank", "shortlisted", "on the shortlist", "rank")
    return found


def up_to(chain: list[Check], last_stage: str) -> list[Check]:
    """The checks up to the end of a stage."""
    until = STAGES.index(last_stage)
    return [check for check in chain if STAGES.index(check.stage) <= until]


def passing(rows: Rows, chain: list[Check]) -> list[int]:
    """Indices of the crystals that meet all checks, ascending."""
    return [i for i, row in rows.items() if all(check.meets(row) for check in chain)]


def failed_checks(rows: Rows, chain: list[Check]) -> dict[int, str]:
    """Index -> the first check that a crystal does not meet, in words; none for one on the list."""
    first = {
        i: next((check.text for check in chain if not check.meets(row)), None)
        for i, row in rows.items()
    }
    return {i: text for i, text in first.items() if text is not None}


def counts(rows: Rows, chain: list[Check], asked: int) -> list[tuple[str, str, str, int]]:
    """Stage, name, words and number of crystals left, from those that were asked for on."""
    left = list(rows.values())
    steps = [("sample", "asked", "asked for", asked), ("sample", "written", "written", len(left))]
    for check in chain:
        left = [row for row in left if check.meets(row)]
        steps.append((check.stage, check.name, check.text, len(left)))
    return steps


def write(out: Path, plan: Plan, rows: Rows, last_stage: str, part: Part | None = None) -> str:
    """Writes funnel.json up to a stage; returns that stage as a line of text."""
    num = plan.request.num
    asked = num if part is None else int(part.members(num).sum())
    steps = counts(rows, up_to(checks(plan), last_stage), asked)
    content = {
        "command": plan.command,
        "steps": [
            {"stage": stage, "name": name, "text": text, "count": count}
            for stage, name, text, count in steps
        ],
        "notes": list(plan.notes),
    }
    replace_text(out / FILE, json.dumps(content, indent=1) + "\n")
    parts = [f"{count} {text}" for stage, _, text, count in steps if stage == last_stage]
    return f"{last_stage}: {', '.join(parts) or 'nothing to check'}"
