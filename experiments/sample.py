"""`python -m experiments.sample`, the same as `crystal-diffusion sample`."""

from crystal_diffusion_jax.cli import program, sample

if __name__ == "__main__":
    program.run(sample.main)
