"""`python -m experiments.relax`, the same as `crystal-diffusion relax`."""

from crystal_diffusion_jax.cli import program, relax

if __name__ == "__main__":
    program.run(relax.main)
