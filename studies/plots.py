"""Pictures of what a model does: property histogram, conditioning, guidance, learning curve.

Each function draws one picture and returns matplotlib's figure; `save` makes it a PNG.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from crystal_diffusion_jax.data.datasets import DatasetSpec
from crystal_diffusion_jax.evaluation.intervals import Rate
from crystal_diffusion_jax.evaluation.success_rate import NAMES
from crystal_diffusion_jax.report.distribution import distribution
from crystal_diffusion_jax.report.pictures import (
    GENERATED_COLOUR,
    TARGET_COLOUR,
    THRESHOLD_COLOUR,
    draw_distribution,
    legend_above,
    panels,
)
from studies.measurement import Measurement, Training, conditioning_errors

# From strict to lenient, then for what is not a success rate.
_RATE_COLOURS = ("#7a1f2b", GENERATED_COLOUR, "#e8a0a9")
_VALID_COLOUR = "#2f6690"


def save(figure: Figure) -> bytes:
    """The picture as PNG, 1050 pixels wide."""
    drawn, file = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=150)
    # A palette makes the file a third as large.
    picture = Image.open(drawn).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(file, format="png", optimize=True)
    return file.getvalue()


def property_histogram(
    sets: Mapping[str, Measurement], training: Training, spec: DatasetSpec, title: str
) -> Figure:
    """Predicted property of each set of crystals, over that of the training set.

    Args:
      sets: what was requested, such as "minimum" -> its crystals.
      training: the training set.
      spec: its name and thresholds.
      title: title of the picture.
    """
    figure, all_axes = panels(len(sets), 1, 0.9 + 1.5 * len(sets), sharex=True)
    known = np.array(training.quantiles)
    # Decimals that resolve a thousandth of the range.
    spread = training.ends[1] - training.ends[0] or 1.0
    digits = max(0, 3 - math.floor(math.log10(spread)))
    sr5 = spec.success_thresholds[0]
    for axes, (name, measured) in zip(all_axes, sets.items(), strict=True):
        target, values = measured.arguments["target"], measured.predictions
        label = f"SR5 threshold {sr5:.{digits}f}"
        shown = distribution(values, known, {label: sr5}, (target, target), "")
        draw_distribution(axes, shown)
        axes.set_title(
            f"{name} requested: {target:.{digits}f} ({np.sum(np.isfinite(values))} crystals)",
            fontsize=9,
            loc="left",
        )
    legend_above(figure, all_axes[0], 4, title=title)
    all_axes[-1].set_xlabel(f"predicted {_title(spec)}; outliers are in the outermost bins")
    return figure


def conditioning(
    measurements: Sequence[Measurement],
    training: Training,
    spec: DatasetSpec,
    title: str,
) -> Figure:
    """Predicted against requested property, every crystal and the quartiles of each target.

    Args:
      measurements: the crystals of each target.
      training: the training set.
      spec: its name and thresholds.
      title: title of the picture.
    """
    figure, (axes,) = panels(1, 1, 5.4)
    low, high = training.ends
    margin = 0.08 * (high - low)
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, color="0.6", linewidth=1, label="as requested")
    sr5 = spec.success_thresholds[0]
    axes.axhline(sr5, color=THRESHOLD_COLOUR, linestyle=":", label="SR5 threshold")
    axes.axhline(low, color=TARGET_COLOUR, linestyle="--", linewidth=1, label="training minimum")
    targets = np.concatenate([np.full(each.num, each.arguments["target"]) for each in measurements])
    values = np.concatenate([each.predictions for each in measurements])
    axes.scatter(
        targets, values, s=9, color=GENERATED_COLOUR, alpha=0.3, linewidths=0, label="a crystal"
    )
    full = [each for each in measurements if each.quartiles is not None]
    quartiles = np.array([each.quartiles for each in full], dtype=float).reshape(-1, 3).T
    axes.errorbar(
        [each.arguments["target"] for each in full],
        quartiles[1],
        yerr=np.abs(quartiles[[0, 2]] - quartiles[1]),
        fmt="o",
        color=_RATE_COLOURS[0],
        markersize=5,
        capsize=3,
        label="median and quartiles",
    )
    outside = int(np.sum((values < limits[0]) | (values > limits[1])))
    errors = error_text(conditioning_errors(measurements, training), spec.unit, outside)
    axes.set(
        xlabel=f"requested {_title(spec)}\n{errors}",
        ylabel=f"predicted {_title(spec)}",
        xlim=limits,
        ylim=limits,
    )
    legend_above(figure, axes, 3, title=title)
    return figure


def error_text(scores: Mapping[str, Any], unit: str, outside: int = 0) -> str:
    """The errors of `measurement.conditioning_errors` in two lines."""
    if scores["mean_absolute_error"] is None:
        return "no crystal has a prediction"
    ignored = scores["mean_absolute_error_if_ignored"]
    mean = f"mean absolute error {scores['mean_absolute_error']:.3g} {unit}"
    mean += f" ({ignored:.3g} if the request were ignored)"
    predicted = f"{scores['predicted']} of {scores['num']} crystals predicted"
    if outside:
        predicted += f", {outside} outside of the picture"
    return f"{mean}, median {scores['median_absolute_error']:.3g}\n{predicted}"


def guidance(measurements: Sequence[Measurement], title: str) -> Figure:
    """Success, validity and, if there are several, unique compositions against guidance.

    Args:
      measurements: at the minimum, by ascending weight.
      title: title of the picture.
    """
    counts = [each.compositions for each in measurements]
    ratios = (1.5, 1) if max(counts) > 1 else (1,)  # carbon has one composition
    figure, (left, *rest) = panels(1, len(ratios), 3.6, width_ratios=ratios)
    weights = [each.arguments["guidance"] for each in measurements]
    valid = [Rate(each.valid, each.num) for each in measurements]
    rows = {name: _success(measurements, name) for name in NAMES} | {"valid": valid}
    # Side by side, because they coincide for good models.
    step = 0.015 * (max(weights) - min(weights))
    for place, ((name, rates), colour) in enumerate(
        zip(rows.items(), (*_RATE_COLOURS, _VALID_COLOUR), strict=True)
    ):
        draw_rates(left, [weight + (place - 1.5) * step for weight in weights], rates, colour, name)
    left.set(ylabel="% of crystals, with 95 % interval", xlabel="guidance weight")
    left.set_ylim(top=101)
    for right in rest:
        right.plot(weights, counts, "o-", color=TARGET_COLOUR)
        right.set(ylabel=f"unique compositions of {measurements[0].num}")
        right.set(xlabel="guidance weight", ylim=(0, 1.1 * max(counts)))
    for axes in (left, *rest):
        axes.set_xticks(weights)
    legend_above(figure, left, 4, title=title)
    return figure


def learning_curve(
    minutes: Sequence[float],
    measurements: Sequence[Measurement],
    validation: Sequence[tuple[float, float]],
    title: str,
) -> Figure:
    """Success rates at the minimum and validation loss against the time of training.

    Args:
      minutes: minutes of training at each measurement.
      measurements: of the checkpoints.
      validation: minutes and loss of each validation.
      title: title of the picture.
    """
    figure, (above, below) = panels(2, 1, 5.0, sharex=True, height_ratios=(1.6, 1))
    for name, colour in zip(NAMES, _RATE_COLOURS, strict=True):
        draw_rates(above, minutes, _success(measurements, name), colour, name)
    above.set(ylabel="% of crystals, with 95 % interval", ylim=(0, 101))
    below.plot(*np.array(validation, dtype=float).reshape(-1, 2).T, color=_VALID_COLOUR)
    below.set(ylabel="validation loss", xlabel="minutes of training")
    below.set_xlim(left=0)
    legend_above(figure, above, 3, title=title)
    return figure


def _title(spec: DatasetSpec) -> str:
    return f"{spec.property_name}, {spec.unit}"


def _success(measurements: Sequence[Measurement], name: str) -> list[Rate]:
    return [Rate(each.success[name], each.num) for each in measurements]


def draw_rates(
    axes: Any, x: Sequence[float], rates: Sequence[Rate], colour: str, name: str
) -> None:
    """Draws rates in percent with their intervals."""
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
