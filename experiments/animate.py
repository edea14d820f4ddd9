"""`python -m experiments.animate`, the same as `crystal-diffusion animate`."""

from crystal_diffusion_jax.cli import animate, program

if __name__ == "__main__":
    program.run(animate.main)
