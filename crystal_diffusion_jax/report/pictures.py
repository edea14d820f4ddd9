"""The page's pictures once more, as PNG files made with matplotlib."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.report import distribution
from crystal_diffusion_jax.report.distribution import Distribution
from crystal_diffusion_jax.report.figures import (
    GENERATED_COLOUR,
    TARGET_COLOUR,
    THRESHOLD_COLOUR,
    TRAINING_COLOUR,
)
from crystal_diffusion_jax.runtime.files import replace_bytes, try_writing

HISTOGRAM, COMPOSITIONS, ELEMENTS = "histogram.png", "compositions.png", "elements.png"


def require_matplotlib(who: str = "--png") -> Any:
    """The class matplotlib.figure.Figure.

    Args:
      who: needs it, for the message.

    Raises:
      UserError: the extra `plots` is not installed.
    """
    try:
        # Figure alone draws with Agg: no display, no global pyplot state.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"{who} needs matplotlib: pip install '.[plots]'") from error
    return Figure


def prepare_folder(folder: Path) -> None:
    """Makes the folder of --png and tries to write there, before the minutes of work.

    Raises:
      UserError: it cannot be made or written, or matplotlib is missing.
    """
    require_matplotlib()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (HISTOGRAM, COMPOSITIONS, ELEMENTS):
            try_writing(folder / name)
    except OSError as error:
        raise _cannot_write(folder, error) from error


def write_pictures(
    folder: Path,
    shown: Distribution | None,
    formulas: Sequence[str],
    counts: Mapping[str, int],
    num: int,
) -> list[Path]:
    """Writes compositions.png and elements.png, and histogram.png where there are predictions.

    Earlier ones stay whole until then; an earlier histogram goes where there is no new one.

    Args:
      folder: exists.
      shown: of the property, None without predictions.
      formulas: of all crystals.
      counts: symbol -> crystals that hold the element.
      num: crystals in all.

    Returns:
      The files.

    Raises:
      UserError: matplotlib is missing, or a file cannot be written.
    """
    pictures = {COMPOSITIONS: _compositions(formulas), ELEMENTS: _elements(counts, num)}
    if shown is not None:
        pictures = {HISTOGRAM: _histogram(shown)} | pictures
    try:
        for name, figure in pictures.items():
            drawn = io.BytesIO()
            figure.savefig(drawn, format="png", dpi=150)
            replace_bytes(folder / name, drawn.getvalue())
        if shown is None:
            (folder / HISTOGRAM).unlink(missing_ok=True)  # that of other crystals
    except OSError as error:
        raise _cannot_write(folder, error) from error
    return [folder / name for name in pictures]


def _cannot_write(folder: Path, error: OSError) -> UserError:
    return UserError(f"--png={folder} cannot be written ({error.strerror}): choose another --png.")


def _figure(height: float) -> tuple[Any, Any]:
    figure = require_matplotlib()(figsize=(7.2, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _histogram(shown: Distribution) -> Any:
    figure, axes = _figure(3.6)
    for name, share, colour in (
        ("training set", shown.training, TRAINING_COLOUR),
        ("generated", shown.generated, GENERATED_COLOUR),
    ):
        if share is not None:
            axes.stairs(share, shown.edges, fill=True, color=colour, alpha=0.75, label=name)
    if shown.target is not None:
        low, high = shown.target
        if low < high:
            axes.axvspan(low, high, color=TARGET_COLOUR, alpha=0.18, linewidth=0, label="target")
        else:
            axes.axvline(low, color=TARGET_COLOUR, label="target")
    for rank, (name, value) in enumerate(shown.thresholds.items()):
        axes.axvline(value, color=THRESHOLD_COLOUR, linestyle=":", linewidth=1)
        # One below the other, because the thresholds are close together.
        axes.annotate(
            name,
            (value, 0.97 - 0.07 * rank),
            xycoords=("data", "axes fraction"),
            xytext=(3, 0),
            textcoords="offset points",
            fontsize=8,
            va="top",
        )
    axes.set(xlabel=shown.title, ylabel="% of crystals", xlim=(shown.edges[0], shown.edges[-1]))
    axes.legend(frameon=False)
    return figure


def _compositions(formulas: Sequence[str]) -> Any:
    figure, axes = _figure(3.6)
    common = distribution.common_compositions(formulas)
    axes.bar(range(len(common)), [count for _, count in common], color=GENERATED_COLOUR)
    axes.set_xticks(range(len(common)), [name for name, _ in common], rotation=60, ha="right")
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylabel("crystals")
    axes.yaxis.get_major_locator().set_params(integer=True)
    return figure


def _elements(counts: Mapping[str, int], num: int) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    figure, axes = _figure(3.6)
    share, symbols = distribution.periodic_table(counts, num)
    colours = LinearSegmentedColormap.from_list("share", ["#fde8e4", GENERATED_COLOUR])
    image = axes.pcolormesh(
        np.ma.masked_invalid(share), cmap=colours, edgecolors="white", linewidth=2
    )
    for (row, column), symbol in np.ndenumerate(symbols):
        axes.text(column + 0.5, row + 0.5, symbol, ha="center", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.set_axis_off()
    if np.isfinite(share).any():
        figure.colorbar(image, ax=axes, label="% of crystals", shrink=0.7)
    return figure
