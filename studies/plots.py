"""Pictures of what a model does: property histogram, conditioning, guidance, learning curve.

Each function draws one picture and returns matplotlib's figure; `save` writes it.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crystal_diffusion_jax.data.datasets import DatasetSpec
from crystal_diffusion_jax.evaluation.intervals import Rate
from crystal_diffusion_jax.evaluation.success_rate import NAMES
from crystal_diffusion_jax.report.distribution import distribution
from crystal_diffusion_jax.report.figures import (
    GENERATED_COLOUR,
    TARGET_COLOUR,
    THRESHOLD_COLOUR,
    TRAINING_COLOUR,
)
from crystal_diffusion_jax.report.pictures import require_matplotlib
from studies.conditioning import Answer
from studies.figure_requests import Training
from studies.measurement import Measurement, values_of

# From strict to lenient; the last one is for what is no success rate.
_RATE_COLOURS = ("#7a1f2b", GENERATED_COLOUR, "#e8a0a9")
_VALID_COLOUR = "#2f6690"


def save(figure: Any) -> bytes:
    """The picture as PNG, 1050 pixels wide."""
    from PIL import Image  # comes with matplotlib

    drawn, file = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=150)
    # A palette makes it a third as large.
    picture = Image.open(drawn).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(file, format="png", optimize=True)
    return file.getvalue()


def _title(spec: DatasetSpec) -> str:
    return f"{spec.property_name}, {spec.unit}"


def _panels(rows: int, columns: int, height: float, **options: Any) -> tuple[Any, Any]:
    figure = require_matplotlib("the picture")(figsize=(7.0, height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def property_histogram(
    sets: Mapping[str, Measurement], training: Training, spec: DatasetSpec, title: str
) -> Any:
    """Predicted property of each set of crystals, over that of the training set.

    Args:
      sets: what was asked for, such as "minimum" -> its crystals.
      training: the training set.
      spec: its name and thresholds.
      title: of the picture.
    """
    figure, panels = _panels(len(sets), 1, 0.7 + 1.5 * len(sets), sharex=True)
    known = np.array(training.ends if training.quantiles is None else training.quantiles)
    # Decimals that resolve a thousandth of the range.
    spread = training.ends[1] - training.ends[0] or 1.0
    digits = max(0, 3 - math.floor(math.log10(spread)))
    for axes, (name, measured) in zip(panels, sets.items(), strict=True):
        target = measured["request"]["target"]
        values = values_of(measured)
        shown = distribution(values, known, {}, (target, target), "")
        if training.quantiles is not None:
            axes.stairs(
                shown.training, shown.edges, fill=True, color=TRAINING_COLOUR, label="training set"
            )
        axes.stairs(
            shown.generated,
            shown.edges,
            fill=True,
            color=GENERATED_COLOUR,
            alpha=0.75,
            label=f"asked for the {name} ({np.sum(np.isfinite(values))} crystals)",
        )
        axes.axvline(
            target, color=TARGET_COLOUR, linewidth=1.5, label=f"target {target:.{digits}f}"
        )
        sr5 = spec.success_thresholds[0]
        label = f"SR5 threshold {sr5:.{digits}f}"
        axes.axvline(sr5, color=THRESHOLD_COLOUR, linestyle=":", label=label)
        axes.set(ylabel="% of crystals", xlim=(shown.edges[0], shown.edges[-1]))
        axes.legend(frameon=False, fontsize=8.5)
    panels[-1].set_xlabel(f"predicted {_title(spec)}; beyond the ends: in the outermost bins")
    figure.suptitle(title, fontsize=11)
    return figure


def conditioning(
    answers: Sequence[Answer],
    measurements: Sequence[Measurement],
    training: Training,
    spec: DatasetSpec,
    title: str,
    text: str,
) -> Any:
    """Predicted against requested property, every crystal and the quartiles of each target.

    Args:
      answers: one for each target.
      measurements: their crystals.
      training: the training set.
      spec: its name and thresholds.
      title: of the picture.
      text: the errors, written into the picture.
    """
    figure, (axes,) = _panels(1, 1, 5.2)
    low, high = training.ends
    margin = 0.08 * (high - low)
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, color="0.6", linewidth=1, label="as requested")
    axes.axhline(
        spec.success_thresholds[0], color=THRESHOLD_COLOUR, linestyle=":", label="SR5 threshold"
    )
    axes.axhline(low, color=TARGET_COLOUR, linestyle="--", linewidth=1, label="training minimum")
    outside = 0
    for number, measured in enumerate(measurements):
        values = values_of(measured)
        values = values[np.isfinite(values)]
        outside += int(np.sum((values < limits[0]) | (values > limits[1])))
        axes.scatter(
            np.full(len(values), measured["request"]["target"]),
            values,
            s=9,
            color=GENERATED_COLOUR,
            alpha=0.3,
            linewidths=0,
            label=None if number else "a crystal",
        )
    full = [each for each in answers if each.quartiles is not None]
    quartiles = np.array([each.quartiles for each in full], dtype=float).reshape(-1, 3).T
    axes.errorbar(
        [each.target for each in full],
        quartiles[1],
        yerr=np.abs(quartiles[[0, 2]] - quartiles[1]),
        fmt="o",
        color="#7a1f2b",
        markersize=5,
        capsize=3,
        label="median and quartiles",
    )
    note = f"\n{outside} crystals outside of the picture" if outside else ""
    # Below the legend, above the diagonal; crystals far from it may lie behind.
    behind = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1.0}
    axes.text(0.02, 0.7, text + note, transform=axes.transAxes, va="top", fontsize=9, bbox=behind)
    axes.set(
        xlabel=f"requested {_title(spec)}",
        ylabel=f"predicted {_title(spec)}",
        xlim=limits,
        ylim=limits,
    )
    axes.legend(loc="upper left", fontsize=9, edgecolor="none")
    axes.set_title(title, fontsize=11)
    return figure


def error_text(scores: Mapping[str, Any], unit: str) -> str:
    """The errors of `figure_requests.summary` in a few lines."""
    if scores["mean_absolute_error"] is None:
        return "no crystal could be judged"
    ignored = scores["mean_absolute_error_if_ignored"]
    lines = [
        f"mean absolute error {scores['mean_absolute_error']:.3g} {unit}",
        f"median absolute error {scores['median_absolute_error']:.3g} {unit}",
        f"{scores['predicted']} of {scores['num']} crystals predicted",
    ]
    if ignored is not None:
        lines.insert(1, f"(if the request were ignored: {ignored:.3g})")
    return "\n".join(lines)


def guidance(measurements: Sequence[Measurement], title: str) -> Any:
    """Success, validity and, where there are several, distinct compositions against guidance.

    Args:
      measurements: at the minimum, by ascending weight.
      title: of the picture.
    """
    counts = [each["compositions"] for each in measurements]
    ratios = (1.5, 1) if max(counts) > 1 else (1,)  # carbon is carbon
    figure, (left, *rest) = _panels(1, len(ratios), 3.3, width_ratios=ratios)
    weights = [each["request"]["guidance"] for each in measurements]
    rows = {name: [_success(each, name) for each in measurements] for name in NAMES}
    valid = [Rate(each["valid"], each["request"]["num"]) for each in measurements]
    # Side by side, as they coincide where a model is good.
    step = 0.015 * (max(weights) - min(weights))
    for place, ((name, rates), colour) in enumerate(
        zip({**rows, "valid": valid}.items(), (*_RATE_COLOURS, _VALID_COLOUR), strict=True)
    ):
        _curve(left, [weight + (place - 1.5) * step for weight in weights], rates, colour, name)
    left.set(ylabel="% of crystals, with 95 % interval", xlabel="weight of guidance")
    left.set_ylim(top=101)
    left.legend(frameon=False)
    (num,) = {each["request"]["num"] for each in measurements}
    for right in rest:
        right.plot(weights, counts, "o-", color=TARGET_COLOUR)
        right.set(ylabel=f"distinct compositions of {num}", xlabel="weight of guidance")
        right.set_ylim(0, 1.1 * max(counts))
    for axes in (left, *rest):
        axes.set_xticks(weights)
    figure.suptitle(title, fontsize=11)
    return figure


def learning_curve(
    minutes: Sequence[float],
    measurements: Sequence[Measurement],
    validation: Sequence[tuple[float, float]],
    title: str,
) -> Any:
    """Success rates at the minimum against the time of training, below them the validation loss.

    Args:
      minutes: of training, for each measurement.
      measurements: of the checkpoints.
      validation: minutes and loss of each validation.
      title: of the picture.
    """
    figure, (above, below) = _panels(2, 1, 4.8, sharex=True, height_ratios=(1.6, 1))
    for name, colour in zip(NAMES, _RATE_COLOURS, strict=True):
        _curve(above, minutes, [_success(each, name) for each in measurements], colour, name)
    above.set(ylabel="% of crystals, with 95 % interval", ylim=(0, 101))
    above.legend(frameon=False)
    below.plot(*np.array(validation, dtype=float).reshape(-1, 2).T, color=_VALID_COLOUR)
    below.set(ylabel="validation loss", xlabel="minutes of training")
    below.set_xlim(left=0)
    figure.suptitle(title, fontsize=11)
    return figure


def _success(measured: Measurement, name: str) -> Rate:
    return Rate(measured["success"]["single_valid"][name], measured["request"]["num"])


def _curve(axes: Any, x: Sequence[float], rates: Sequence[Rate], colour: str, name: str) -> None:
    """Rates in percent with their intervals."""
    shares = 100.0 * np.array([[rate.value, *(rate.interval or ())] for rate in rates], dtype=float)
    value, low, high = shares.T
    axes.errorbar(
        x,
        value,
        yerr=np.maximum(0.0, [value - low, high - value]),
        fmt="o-",
        color=colour,
        capsize=3,
        markersize=4,
        label=name,
    )
