"""The judge: CDVAE's published property networks (a DimeNet++ each for Perov-5, Carbon-24, MP-20).

  weights    the published weights, fetched, checked and converted once; torch_zip reads them
  graph      pymatgen structure -> CrystalNN bonds under the rule the networks were trained with
  bonds      many structures at once: all cores, a time limit each, a cache
  batching   bonds -> triplets -> padded batches of one shape
  basis      radial and spherical basis functions
  dimenet    the forward pass, differentiable in lattice and coordinates
  predict    all of it: structures -> predicted property

Axes: B crystals, N atoms, E directed bonds, T triplets k -> j -> i, all flat and padded.
"""
