import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crystal_diffusion_jax.data.perovskites import abx3_dataset
from crystal_diffusion_jax.errors import UserError
from experiments.quickstart import main, plot, read_samples, score_samples, table

# Tolerance factors from Shannon's radii, by hand: (r_A + r_X) / (sqrt(2) (r_B + r_X)).
T_SRTIO3 = (1.44 + 1.40) / (2**0.5 * (0.605 + 1.40))
T_BATIO3 = (1.61 + 1.40) / (2**0.5 * (0.605 + 1.40))
A_TITANATE = 2 * (0.605 + 1.40)


def perovskite(a: int, b: int, x: int, edges: tuple[float, float, float]) -> dict[str, Any]:
    """A crystal as samples.json holds it."""
    return {
        "index": 0,
        "lattice": np.diag(edges).tolist(),
        "frac_coords": [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
        "atomic_numbers": [a, b, x, x, x],
    }


SRTIO3 = perovskite(38, 22, 8, (A_TITANATE,) * 3)
BATIO3 = perovskite(56, 22, 8, (A_TITANATE,) * 3)
NOT_NEUTRAL = perovskite(38, 22, 9, (A_TITANATE,) * 3)
NOT_ABX3 = {**SRTIO3, "atomic_numbers": [38, 38, 22, 8, 8]}


def write_samples(folder: Path, target: float | None, structures: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    content = {"target": target, "structures": structures}
    (folder / "samples.json").write_text(json.dumps(content))
    return folder


def test_scores_are_those_worked_out_by_hand() -> None:
    score = score_samples([SRTIO3, NOT_ABX3, BATIO3, NOT_NEUTRAL], target=1.0)
    assert score.num_structures == 4
    assert score.num_abx3 == 3
    np.testing.assert_allclose(score.tolerance_factors, (T_SRTIO3, T_BATIO3), rtol=1e-12)
    expected = ((T_SRTIO3 - 1.0) + (T_BATIO3 - 1.0)) / 2
    assert score.mean_absolute_error == pytest.approx(expected, rel=1e-9)
    assert score.share_of_good_cells == 1.0


@pytest.mark.parametrize(
    ("stretch", "is_good"), [(0.94, False), (0.96, True), (1.04, True), (1.06, False)]
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_cell_is_good_only_if_every_edge_is_within_five_percent(
    stretch: float, is_good: bool, axis: int
) -> None:
    edges = [A_TITANATE] * 3
    edges[axis] *= stretch
    crystal = perovskite(38, 22, 8, (edges[0], edges[1], edges[2]))
    assert score_samples([crystal], target=None).num_good_cells == int(is_good)


def test_the_training_data_score_perfectly_on_their_own_cells() -> None:
    dataset = abx3_dataset()
    structures = [
        {
            "lattice": dataset.lattice[row],
            "frac_coords": dataset.frac_coords[5 * row : 5 * row + 5],
            "atomic_numbers": dataset.atomic_numbers[5 * row : 5 * row + 5],
        }
        for row in range(0, len(dataset), 50)
    ]
    score = score_samples(structures, target=None)
    assert score.num_abx3 == len(structures)
    assert score.share_of_good_cells == 1.0
    np.testing.assert_array_equal(score.tolerance_factors, dataset.properties[::50, 0])


def test_without_a_target_or_without_crystals_there_is_no_error_to_state() -> None:
    assert score_samples([SRTIO3], target=None).mean_absolute_error is None
    nothing = score_samples([NOT_ABX3], target=1.0)
    assert nothing.mean_absolute_error is None
    assert nothing.share_of_good_cells is None


def test_table_has_one_line_per_set_and_says_what_ignoring_the_target_gives() -> None:
    scores = [score_samples([SRTIO3, NOT_ABX3], 1.1), score_samples([], None)]
    header, first, second = table(scores, dataset_t=np.array([0.9, 1.2])).splitlines()
    assert len(header) == len(first) == len(second)
    error = f"{1.1 - T_SRTIO3:.3f}"
    ignored = "0.150"  # the mean of 0.2 and 0.1
    assert first.split() == ["1.100", "2", "1", "1", "100%", f"{T_SRTIO3:.3f}", error, ignored]
    assert second.split() == ["-", "0", "0", "0", "-", "-", "-", "-"]


def test_picture_is_a_png_that_shows_every_set(tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    dataset_t = np.linspace(0.75, 1.1, 50)
    one = [score_samples([SRTIO3, BATIO3], 1.0)]
    plot(one, dataset_t, tmp_path / "new" / "one.png")
    plot([*one, score_samples([], None)], dataset_t, tmp_path / "two.png")
    first, second = (image.imread(tmp_path / name) for name in ("new/one.png", "two.png"))
    assert second.shape[0] > first.shape[0]  # one more panel
    assert np.unique(first.reshape(-1, first.shape[-1]), axis=0).shape[0] > 10  # not a blank page


def test_missing_matplotlib_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"pip install '\.\[plots\]'"):
        plot([], np.array([0.9, 1.0]), tmp_path / "picture.png")


def test_picture_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--out=.*picture\.png"):
        plot([], np.array([0.9, 1.0]), tmp_path / "file" / "picture.png")


def test_a_folder_without_samples_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"samples\.json cannot be read"):
        read_samples(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"target": 1.0}',
        "[" * 100_000,
        '{"target": 1.0, "structures": 5}',
        '{"target": 1.0, "structures": [1]}',
        '{"target": 1.0, "structures": [{"frac_coords": [[0, 0, 0]], "atomic_numbers": [8]}]}',
        '{"target": "x", "structures": []}',
        '{"target": 1e400, "structures": []}',
    ],
)
def test_a_broken_samples_file_is_a_user_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "samples.json").write_text(content)
    with pytest.raises(UserError, match=r"samples\.json is not what"):
        read_samples(tmp_path)


def test_the_program_prints_the_table_and_writes_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    folders = [
        write_samples(tmp_path / "near", 1.0, [SRTIO3]),
        write_samples(tmp_path / "free", None, [BATIO3, NOT_ABX3]),
    ]
    picture = tmp_path / "out" / "picture.png"
    arguments = ["quickstart", "--samples", *map(str, folders), f"--out={picture}"]
    monkeypatch.setattr(sys, "argv", arguments)
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:4] == ["1.000", "1", "1", "1"]
    assert lines[2].split()[:4] == ["-", "2", "1", "1"]
    assert lines[-1] == f"picture: {picture}"
    assert picture.read_bytes().startswith(b"\x89PNG")
