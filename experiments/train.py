"""`python -m experiments.train`, the same as `crystal-diffusion train`."""

from crystal_diffusion_jax.cli import program, train

if __name__ == "__main__":
    program.run(train.main)
