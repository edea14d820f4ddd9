"""Shows noise becoming a crystal, as an animated GIF or an HTML page with a slider.

    python -m experiments.animate --trajectory=samples/four/trajectories/00000.extxyz --out=a.gif
    python -m experiments.animate --trajectory=samples/four/trajectories/00000.extxyz --out=a.html

`python -m experiments.sample --trajectory=10` saves every tenth state of its crystals.
"""

from pathlib import Path

from crystal_diffusion_jax.cli import program
from crystal_diffusion_jax.errors import UserError


def parser() -> program.Parser:
    """The flags."""
    flags = program.Parser(prog="python -m experiments.animate", description=__doc__)
    flags.add_argument(
        "--trajectory", type=Path, required=True, help="file in OUT/trajectories, see sample"
    )
    flags.add_argument("--out", type=Path, required=True, help="file, .gif or .html")
    return flags


def main() -> None:
    """Entry point."""
    flags = parser().parse_args()
    from crystal_diffusion_jax.report.animation import MAX_FRAMES, to_gif, to_html
    from crystal_diffusion_jax.report.scenes import make_scenes, read_trajectory

    if flags.out.suffix not in (".gif", ".html"):
        raise UserError(f"--out={flags.out} must end in .gif or .html")
    program.check_output(flags.out)
    scenes = make_scenes(read_trajectory(flags.trajectory, MAX_FRAMES))
    content = to_gif(scenes) if flags.out.suffix == ".gif" else to_html(scenes)
    program.write_output(flags.out, content)
    print(f"{len(scenes)} frames in {flags.out.resolve()}")
