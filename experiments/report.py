"""`python -m experiments.report`, the same as `crystal-diffusion report`."""

from crystal_diffusion_jax.cli import program, report

if __name__ == "__main__":
    program.run(report.main)
