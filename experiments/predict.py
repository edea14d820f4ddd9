"""`python -m experiments.predict`, the same as `crystal-diffusion predict`."""

from crystal_diffusion_jax.cli import predict, program

if __name__ == "__main__":
    program.run(predict.main)
