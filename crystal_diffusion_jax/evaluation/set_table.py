"""Several sets of crystals as a text table: one row per set, one column per score."""

from collections.abc import Callable, Mapping, Sequence

from crystal_diffusion_jax.evaluation.intervals import Rate, SampleStatistic
from crystal_diffusion_jax.evaluation.relaxed import Relaxed
from crystal_diffusion_jax.evaluation.report import Report
from crystal_diffusion_jax.evaluation.sets import Scored
from crystal_diffusion_jax.evaluation.stability import Stability
from crystal_diffusion_jax.evaluation.success_rate import NAMES

GENERATED = "generated"
TITLES = {
    "training_band": "control: training, SR5 band",
    "substituted": "control: substituted",
    "held_out": "control: held out",
}
_Cell = Rate | SampleStatistic | None
_Column = tuple[tuple[str, str], Callable[[Report], _Cell]]
_RelaxedColumn = tuple[tuple[str, str], Callable[[Relaxed], _Cell]]
_EMPTY = "-"


def _success(name: str) -> Callable[[Report], _Cell]:
    return lambda report: report.success_rate.get("single", {}).get(name)


def _stability(attribute: str, when: str) -> Callable[[Relaxed], _Cell]:
    def cell(relaxed: Relaxed) -> _Cell:
        found: Stability | None = getattr(relaxed, f"stability_{when}")
        return None if found is None else getattr(found, attribute)

    return cell


# The two lines of a column's head, and its score.
SCORES: Sequence[_Column] = (
    *[(("", name), _success(name)) for name in NAMES],
    (("below", "train"), lambda report: report.predictions.get("below_training_range")),
    (("out-", "side"), lambda report: report.predictions.get("outside_training")),
    (("", "valid"), lambda report: report.validity["both"]),
    (("", "unique"), lambda report: report.diversity["unique"]),
    (("", "novel"), lambda report: report.diversity.get("novel")),
    (("novel", "comp."), lambda report: report.diversity.get("novel_compositions")),
    (("", "useful"), lambda report: report.useful),
    (("volume", "ratio"), lambda report: report.volume.get("median_ratio")),
    (("", "denser"), lambda report: report.volume.get("denser")),
    (("", "looser"), lambda report: report.volume.get("looser")),
)
RELAXED: Sequence[_RelaxedColumn] = (
    (("con-", "verged"), lambda relaxed: relaxed.converged),
    (("gain", "eV/at."), lambda relaxed: relaxed.energy_gain["median"]),
    (("RMSD", "A"), lambda relaxed: relaxed.rmsd["median"]),
    (("|dV|", "/ V"), lambda relaxed: relaxed.absolute_volume_change["median"]),
    (("RMSD", "<0.1 A"), lambda relaxed: relaxed.close),
    (("<0.1", "before"), _stability("near_hull", "before")),
    (("<0.1", "after"), _stability("near_hull", "after")),
    (("stable", "before"), _stability("stable", "before")),
    (("stable", "after"), _stability("stable", "after")),
    (("S.U.N.", "before"), _stability("sun", "before")),
    (("S.U.N.", "after"), _stability("sun", "after")),
)


def set_table(generated: Scored, controls: Mapping[str, Scored]) -> str:
    """The scores of all sets, those of relaxed crystals below; medians for numbers."""
    sets = {GENERATED: generated} | {TITLES[name]: each for name, each in controls.items()}
    rows = []
    for title, scored in sets.items():
        rows.append((title, scored.report))
        if scored.relaxed is not None:
            rows.append((f"{title}, relaxed", scored.relaxed.scores))
    lines = _block(
        [head for head, _ in SCORES],
        [
            (title, report.counts["asked_for"] or 0, [score(report) for _, score in SCORES])
            for title, report in rows
        ],
    )
    relaxations = [
        (title, each.relaxed) for title, each in sets.items() if each.relaxed is not None
    ]
    if relaxations:
        lines += [
            "",
            "relaxing, medians of the crystals that have a value; 0.1 eV/atom above the hull of "
            "the training set",
        ]
        lines += _block(
            [head for head, _ in RELAXED],
            [
                (title, each.counts["asked_for"], [score(each) for _, score in RELAXED])
                for title, each in relaxations
            ],
        )
    return "\n".join(lines)


def _block(
    heads: Sequence[tuple[str, str]], rows: Sequence[tuple[str, int, Sequence[_Cell]]]
) -> list[str]:
    width = max(len(title) for title, _, _ in rows)
    lines = [
        f"{'':<{width}}{number:>6}" + "".join(f"{head[line]:>8}" for head in heads)
        for line, number in enumerate(("", "n"))
    ]
    for title, number, cells in rows:
        lines.append(f"{title:<{width}}{number:>6}" + "".join(f"{_text(c):>8}" for c in cells))
    return lines


def _text(cell: _Cell) -> str:
    return _EMPTY if cell is None or cell.value is None else f"{cell.value:.3f}"
