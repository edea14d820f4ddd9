"""The report's pictures: what is drawn."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from scipy import stats

from crystal_diffusion_jax.data.profile import quantiles
from crystal_diffusion_jax.report import pictures
from crystal_diffusion_jax.report.distribution import (
    Distribution,
    distribution,
    periodic_table,
)

THRESHOLDS = {"SR5": -1.6, "SR10": -1.3}
LABELS = np.sort(np.random.default_rng(0).normal(size=2000))
QUANTILES = np.array(quantiles(LABELS[:, None])[0])


def shown(
    training: np.ndarray | None = QUANTILES, target: tuple[float, float] | None = (-2.0, -2.0)
) -> Distribution:
    values = np.array([-2.1, -1.9, np.nan, 0.3, 1e6])
    return distribution(values, training, THRESHOLDS, target, "energy, eV")


def test_the_histogram_holds_every_finite_prediction_whatever_its_size():
    values = np.array([0.5, np.nan, -1e6, 1e7, 0.2])
    found = distribution(values, np.linspace(0, 1, 50), {"SR5": 0.1}, (0.0, 0.0), "energy")
    assert found.training is not None
    assert sum(found.training) == pytest.approx(100)
    assert sum(found.generated) == pytest.approx(100)
    assert found.generated[0] == found.generated[-1] == pytest.approx(25)


def test_the_shares_of_evenly_spread_labels_are_the_overlaps_of_the_bins_with_their_range():
    found = distribution(np.zeros(0), np.linspace(2.0, 4.0, 101), {}, None, "energy")
    assert found.training is not None
    inside = np.clip(found.edges, 2.0, 4.0)
    np.testing.assert_allclose(found.training, 50.0 * np.diff(inside), atol=1e-9)
    assert not found.generated.any()


def test_the_shares_from_labels_are_those_of_a_count():
    found = shown(LABELS)
    assert found.training is not None
    counts, _ = np.histogram(LABELS, found.edges)
    # Between two neighbours the cumulative share is drawn as a line instead of a step.
    error = np.cumsum(found.training) - 100 * np.cumsum(counts) / len(LABELS)
    assert np.abs(error).max() <= 100 / (len(LABELS) - 1)


def test_a_hundred_quantiles_never_misplace_more_than_one_percent():
    found = shown(QUANTILES)
    assert found.training is not None
    below = np.searchsorted(LABELS, found.edges[1:]) / len(LABELS)
    error = np.cumsum(found.training) - 100 * below
    assert np.abs(error).max() <= 1.0 + 100 / len(LABELS)
    truth = 100 * np.diff(stats.norm.cdf(found.edges))
    # Two percentage points off the normal density are the quantiles' and the sample's error.
    np.testing.assert_allclose(found.training, truth, atol=2.0)


@pytest.mark.parametrize("labels", [[0.3], [0.3, 0.3], [0.1, 0.3, 0.3, 0.3]])
def test_equal_labels_share_a_bin_and_none_is_lost(labels):
    found = distribution(np.array([0.3]), np.array(labels), {}, None, "energy")
    assert found.training is not None
    assert sum(found.training) == pytest.approx(100)
    if len(set(labels)) == 1:
        assert np.argmax(found.training) == np.argmax(found.generated)


def test_a_target_beyond_the_training_data_is_in_the_picture():
    found = shown(target=(-9.0, -8.0))
    assert found.edges[0] < -9.0
    assert found.edges[-1] > LABELS[-1]


def test_without_a_training_set_the_bulk_of_the_predictions_sets_the_range():
    values = np.append(np.linspace(-2.0, 1.0, 99), 1e7)
    found = distribution(values, None, THRESHOLDS, None, "energy")
    assert found.training is None
    assert found.edges[0] < -1.6
    assert found.edges[-1] < 2.0
    assert sum(found.generated) == pytest.approx(100)
    empty = distribution(np.array([np.nan]), None, {}, None, "energy")
    assert not empty.generated.any()
    assert legend(pictures.pictures(found, [], {})["histogram"]) == ["generated", "SR5", "SR10"]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_legend_is_above_the_axes_and_so_never_hides_data():
    figure = pictures.pictures(shown(), [], {})["histogram"]
    figure.draw_without_rendering()
    assert legend(figure) == ["training set", "generated", "target", "SR5", "SR10"]
    assert figure.legends[0].get_window_extent().y0 >= figure.axes[0].get_window_extent().y1


def test_a_range_is_drawn_as_a_band_and_a_value_as_a_line():
    for target, band in (((-2.5, -2.0), True), ((-2.0, -2.0), False)):
        (axes,) = pictures.pictures(shown(target=target), [], {})["histogram"].axes
        (artist,) = (each for each in axes.get_children() if each.get_label() == "target")
        assert isinstance(artist, Rectangle) == band
    (axes,) = pictures.pictures(shown(target=None), [], {})["histogram"].axes
    assert [np.asarray(line.get_xdata())[0] for line in axes.lines] == list(THRESHOLDS.values())


def test_the_periodic_table_holds_each_symbol_once_and_the_share_of_crystals():
    share, symbols = periodic_table({"O": 2, "Ba": 1}, 3)
    assert len(set(symbols.ravel()) - {""}) == np.count_nonzero(symbols != "") == 118
    assert share[1, 15] == pytest.approx(200 / 3)
    assert np.isfinite(share).sum() == 2


def test_the_drawn_periodic_table_has_a_colour_scale():
    scales = [
        [axes.get_ylabel() for axes in pictures.pictures(None, ["O"] * 3, counts)["elements"].axes]
        for counts in ({"O": 2, "Ba": 1}, {})
    ]
    assert scales == [["", "% of crystals"], [""]]


def has_colour(image: np.ndarray, colour: str) -> bool:
    return bool((np.abs(image[..., :3] - to_rgb(colour)).max(axis=-1) < 2 / 255).any())


@pytest.mark.parametrize("target", [None, (-2.0, -2.0)])
def test_the_pictures_are_png_files_that_show_what_they_should(target):
    drawn = pictures.pictures(shown(target=target), ["BaTiO3"], {"O": 1})
    assert tuple(drawn) == pictures.NAMES
    histogram, compositions, elements = (
        imread(io.BytesIO(pictures.to_png(figure))) for figure in drawn.values()
    )
    assert has_colour(histogram, pictures.TARGET_COLOUR) == (target is not None)
    assert has_colour(compositions, pictures.GENERATED_COLOUR)
    assert not has_colour(compositions, pictures.TARGET_COLOUR)
    assert min(elements.shape[:2]) > 300


def test_pictures_are_svg_elements_for_html():
    drawn = pictures.pictures(shown(), ["BaTiO3"], {"O": 1})
    for figure in drawn.values():
        text = pictures.to_svg(figure)
        assert text.startswith("<svg")
        assert text.rstrip().endswith("</svg>")
