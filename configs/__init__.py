"""One file per experiment, see `crystal_diffusion_jax.config` for the fields."""
