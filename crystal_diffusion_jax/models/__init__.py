"""The denoiser: stateless flax.linen modules."""
