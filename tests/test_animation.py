"""Animations: faithful to the trajectory; unusable files are refused by name."""

import io
import itertools
import sys
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageSequence
from plotly import graph_objects
from scipy.spatial.transform import Rotation

from crystal_diffusion_jax.cli import animate
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.report import animation
from crystal_diffusion_jax.report.scenes import Scene, make_scenes, read_trajectory

EDGE = 4.0
SITES = 0.5 * np.array([[0, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]])
TURN = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]


def frame(t: int, noise: float = 0.0, mirror: bool = False) -> ase.Atoms:
    """SrTiO3 somewhere in space, shifted, turned, maybe mirrored, with noise."""
    rng = np.random.default_rng(t)
    lattice = (EDGE * np.eye(3) + noise * rng.normal(size=(3, 3))) @ TURN
    if mirror:
        lattice = lattice * [1, 1, -1]
    frac_coords = (SITES + [0.3, 0.9, 0.6] + 0.2 * noise * rng.normal(size=(5, 3))) % 1.0
    return ase.Atoms("SrTiO3", cell=lattice, scaled_positions=frac_coords, pbc=True, info={"t": t})


def frames(mirror: bool = False) -> list[ase.Atoms]:
    return [frame(t, t / 1000, mirror) for t in range(1000, -1, -100)]


@pytest.fixture
def path(tmp_path) -> Path:
    ase.io.write(tmp_path / "00000.extxyz", frames())
    return tmp_path / "00000.extxyz"


@pytest.mark.parametrize("mirror", [False, True])
def test_the_last_scene_is_the_upright_crystal_with_images_on_its_faces(mirror):
    last = make_scenes(frames(mirror))[-1]
    assert last.formula == "SrTiO3"
    assert last.t == 0
    # Strontium, the largest, on all 8 corners; titanium in the middle; oxygen on all 6 faces.
    expected = {38: itertools.product((-2, 2), repeat=3), 22: [(0, 0, 0)]}
    expected[8] = [tuple(s * e) for s in (-2, 2) for e in np.eye(3, dtype=int)]
    for number, places in expected.items():
        found = last.positions[last.atomic_numbers == number]
        assert {tuple(place) for place in found.round(6) + 0.0} == set(places)
    np.testing.assert_allclose(last.sizes, 1.0, atol=1e-6)


def test_titanium_is_bonded_to_its_six_oxygen_atoms_and_nothing_else_is():
    scenes = make_scenes(frames())
    last = scenes[-1]
    pairs = {tuple(sorted(last.atomic_numbers[bond])) for bond in last.bonds}
    assert pairs == {(8, 22)}
    assert len(last.bonds) == 6
    assert scenes[0].bond_size == 0.0
    assert last.bond_size == 1.0


def test_scenes_keep_all_distances_of_the_cell_and_its_shape():
    for before, scene in zip(frames(), make_scenes(frames()), strict=True):
        turned = scene.corners[[4, 2, 1]] - scene.corners[0]
        cell = before.cell.array
        np.testing.assert_allclose(turned @ turned.T, cell @ cell.T, atol=1e-9)
        distances = np.linalg.norm(scene.positions[:, None] - scene.positions, axis=-1)
        nearest = np.min(distances[np.triu_indices(len(distances), 1)], initial=np.inf)
        # Images are drawn where they are, so nothing comes closer than the closest pair.
        assert nearest >= before.get_all_distances(mic=True)[np.triu_indices(5, 1)].min() - 1e-6


def test_an_atom_that_leaves_through_a_face_does_not_jump():
    def drawn(x: float) -> dict[tuple, float]:
        atoms = [frame(0), frame(0)]
        shifted = atoms[1].get_scaled_positions()
        shifted[1] = shifted[0] + [x, 0.5, 0.5]
        atoms[0].set_scaled_positions(shifted)
        scene = make_scenes(atoms)[0]
        picked = scene.atomic_numbers == 22
        return dict(
            zip(map(tuple, scene.positions[picked].round(3)), scene.sizes[picked], strict=True)
        )

    before, after = drawn(-1e-6), drawn(1e-6)
    assert before.keys() == after.keys() == {(-2.0, 0.0, 0.0), (2.0, 0.0, 0.0)}
    for place, size in before.items():
        assert abs(size - after[place]) < 1e-3
    (alone,) = drawn(0.4).values()  # 1.6 A from the nearest face
    assert alone == 1.0


def test_views_are_rotations_that_show_the_cell_upright():
    views = animation._views(7).as_matrix()
    for view in views:
        np.testing.assert_allclose(view @ view.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(view) == pytest.approx(1.0)
        right, up, towards = view @ np.array([0, 0, 1])
        assert abs(right) < 1e-12
        assert up > 0.9
        assert towards > 0.1  # seen from slightly above


def test_the_zoom_never_crops_the_cell():
    scenes = make_scenes(frames())
    for scene, reach in zip(scenes, animation._reaches(scenes), strict=True):
        assert reach > np.linalg.norm(scene.corners, axis=-1).max()


def picture(scene: Scene, view: Rotation) -> np.ndarray:
    """[200, 200, 3] pixels, 2 Angstrom from the centre to the edge."""
    figure = Figure(figsize=(2, 2), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.set(xlim=(-1, 1), ylim=(-1, 1))
    animation._draw_scene(axes, scene, view, 2.0)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def two_balls() -> Scene:
    """Oxygen in front of the centre, carbon behind it, chlorine to the upper right."""
    return Scene(
        t=0,
        formula="",
        positions=np.array([[0.0, 0.0, 0.5], [0.0, 0.0, -0.5], [1.0, 0.5, 0.0]]),
        atomic_numbers=np.array([8, 6, 17]),
        sizes=np.ones(3),
        bonds=np.zeros((0, 2), int),
        bond_size=0.0,
        corners=np.zeros((8, 3)),
    )


def test_a_ball_hides_the_one_behind_it():
    for view, shade in ((Rotation.identity(), "red"), (Rotation.from_rotvec([0, np.pi, 0]), "")):
        red, green, _ = picture(two_balls(), view)[110, 100]
        assert (red > green + 100) == (shade == "red")


def test_up_is_up_and_right_is_right():
    pixels = picture(two_balls(), Rotation.identity())
    rows, columns = np.nonzero(pixels[..., 1] > pixels[..., 0] + 60)  # chlorine is green
    assert rows.mean() == pytest.approx(200 * (2.0 - 0.5) / 4, abs=2)
    assert columns.mean() == pytest.approx(200 * (2.0 + 1.0) / 4, abs=2)


def short() -> list[Scene]:
    return make_scenes(frames()[::4] + frames()[-1:])


def test_the_gif_has_every_frame_and_holds_the_last_one():
    content = animation.to_gif(short())
    with Image.open(io.BytesIO(content)) as image:
        assert image.info["loop"] == 0
        durations = []
        for shown in ImageSequence.Iterator(image):
            durations.append(shown.info["duration"])
            last = np.asarray(shown.convert("RGB")).astype(int)
    assert len(durations) == len(short())
    assert durations[-1] >= 1000 > max(durations[:-1])  # pauses at the crystal
    assert (last[0] >= 250).all()  # white around it
    green = (last[..., 1] > last[..., 0] + 60) & (last[..., 1] > last[..., 2] + 60)
    assert green.mean() > 0.02  # strontium in its colour


def test_the_page_holds_every_frame_and_loads_nothing():
    scenes = short()
    text = animation.to_html(scenes)
    for scene in scenes:
        assert f"t = {scene.t}, " in text
    assert "<script src=" not in text
    assert "<link" not in text


def test_the_page_shows_cell_and_atoms_at_one_scale():
    for scene in short():
        cell, _, atoms = animation._traces(graph_objects, scene, 7.0)
        drawn = [np.array([trace.x, trace.y, trace.z], float) for trace in (cell, atoms)]
        spans = [np.nanmax(points, axis=1) - np.nanmin(points, axis=1) for points in drawn]
        expected = np.ptp(scene.corners, axis=0) / np.ptp(scene.positions, axis=0)
        # Positions are rounded to four digits.
        np.testing.assert_allclose(spans[0] / spans[1], expected, rtol=1e-3)


def test_frames_are_thinned_out_evenly_with_both_ends(path):
    assert [atoms.info["t"] for atoms in read_trajectory(path, 6)] == list(range(1000, -1, -200))
    assert len(read_trajectory(path, 120)) == 11


def broken(kind: str, atoms: list[ase.Atoms]) -> list[ase.Atoms]:
    match kind:
        case "diffusion time t":
            del atoms[3].info["t"]
        case "not finite":
            atoms[3].positions[0, 0] = np.nan
        case "the same number":
            atoms[3] = atoms[3][:2]
        case "1 frames":
            atoms = atoms[:1]
        case "length beyond":
            atoms[3].positions[0, 0] = 1e6
    return atoms


@pytest.mark.parametrize(
    "kind",
    ["diffusion time t", "not finite", "the same number", "1 frames", "length beyond"],
)
def test_an_unusable_trajectory_names_the_reason(tmp_path, kind):
    path = tmp_path / "bad.extxyz"
    ase.io.write(path, broken(kind, frames()))
    with pytest.raises(UserError, match=kind) as error:
        read_trajectory(path, 100)
    assert "bad.extxyz" in str(error.value)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="is not a file"):
        read_trajectory(tmp_path, 100)
    (tmp_path / "text").write_text("no crystals here\n")
    with pytest.raises(UserError, match="is not an extended XYZ file"):
        read_trajectory(tmp_path / "text", 100)


def test_a_damaged_trajectory_is_refused(path):
    text = path.read_text()
    for change, reason in (
        (text[: len(text) // 2], "is not an extended XYZ file"),
        (text.replace("pos:R:3", "pos:R:4"), "is not an extended XYZ file"),
        (text.replace("\nTi ", "\nX "), "an unknown element"),
    ):
        assert change != text
        path.write_text(change)
        with pytest.raises(UserError, match=reason):
            read_trajectory(path, 100)


def test_flat_cells_of_noise_can_be_drawn():
    atoms = frames()[-3:]
    atoms[0].set_cell(np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [0.0, 0.0, 1.0]]))
    assert np.isfinite(make_scenes(atoms)[0].positions).all()
    assert animation.to_gif(make_scenes(atoms)).startswith(b"GIF89a")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["animate.py", *arguments])
    animate.main()


@pytest.mark.parametrize(("suffix", "head"), [(".gif", b"GIF89a"), (".html", b"<!doctype html>")])
def test_the_command_chooses_by_the_suffix(tmp_path, monkeypatch, capsys, suffix, head):
    ase.io.write(tmp_path / "a.extxyz", frames()[-3:])
    out = tmp_path / f"a{suffix}"
    run(monkeypatch, f"--trajectory={tmp_path}/a.extxyz", f"--out={out}")
    assert out.read_bytes().startswith(head)
    assert "3 frames" in capsys.readouterr().out


def test_other_suffixes_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"must end in \.gif or \.html"):
        run(monkeypatch, "--trajectory=a.extxyz", f"--out={tmp_path}/a.mp4")
