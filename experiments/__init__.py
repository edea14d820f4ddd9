"""The commands as they are run from a clone; the code is in crystal_diffusion_jax.cli."""
