"""`python -m experiments.match`, the same as `crystal-diffusion match`."""

from crystal_diffusion_jax.cli import match, program

if __name__ == "__main__":
    program.run(match.main)
