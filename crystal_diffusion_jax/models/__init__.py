"""The denoiser of paper eqs. (9)-(19): stateless flax.linen modules."""
