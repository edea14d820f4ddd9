"""`python -m experiments.discover`, the same as `crystal-diffusion discover`."""

from crystal_diffusion_jax.cli import discover, program

if __name__ == "__main__":
    program.run(discover.main)
