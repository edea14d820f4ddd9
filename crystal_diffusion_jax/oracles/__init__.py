"""The oracles: CDVAE's property networks (a DimeNet++ each for Perov-5, Carbon-24 and MP-20).

  weights    the published weights, downloaded, checked and converted once
  voronoi    the faces of an atom's Voronoi cell and their solid angles
  crystal_nn an atom's neighbours, those of pymatgen's CrystalNN
  graph      pymatgen structure -> CrystalNN bonds, as in the training of the networks
  bonds      many structures at once: all cores, a time limit each, a cache
  batching   bonds -> triplets -> padded batches of one shape
  basis      radial and spherical basis functions
  dimenet    the forward pass, differentiable in lattice and coordinates
  domain     what a network was trained on; anything else gets a reason instead of a prediction
  predict    all of it: structures -> predicted property

Arrays of a batch are flat and padded: atoms, directed bonds and triplets k -> j -> i of all
crystals in a row.
"""
