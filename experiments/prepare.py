"""`python -m experiments.prepare`, the same as `crystal-diffusion prepare`."""

from crystal_diffusion_jax.cli import prepare, program

if __name__ == "__main__":
    program.run(prepare.main)
