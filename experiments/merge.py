"""`python -m experiments.merge`, the same as `crystal-diffusion merge`."""

from crystal_diffusion_jax.cli import merge, program

if __name__ == "__main__":
    program.run(merge.main)
