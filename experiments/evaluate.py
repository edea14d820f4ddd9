"""`python -m experiments.evaluate`, the same as `crystal-diffusion evaluate`."""

from crystal_diffusion_jax.cli import evaluate, program

if __name__ == "__main__":
    program.run(evaluate.main)
