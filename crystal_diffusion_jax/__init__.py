"""Inverse design of crystals: a joint diffusion over lattice, coordinates and species, in pure JAX.

The pipeline (paper: Takahara, Shibata, Mizoguchi, arXiv:2406.09263):

  data.load         csv or cif files -> checked, canonical arrays (CrystalDataset)
  data.batches      arrays -> Crystals, padded batches that depend on (seed, step) alone
  diffusion         lattice (DDPM), frac_coords (wrapped normal), species (D3PM): noise and back
  models            Transformer denoiser, conditioned on properties: none, cdi or cds
  training          loss, one jitted step, checkpoints, the loop; ends in a model folder
  sampling          predictor-corrector sampler as one lax.scan, with classifier-free guidance
  structures        sampled arrays -> cif, extxyz, json

Axes: B crystals, N atoms (padded), K species of the vocabulary, T noise steps, D width, H heads,
M Fourier orders, P properties.
"""

__version__ = "0.1.0"
