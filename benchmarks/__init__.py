"""Measurements of speed and quality; README.md keeps the tables."""

# Before jax, whose remarks it silences.
import crystal_diffusion_jax  # noqa: F401
