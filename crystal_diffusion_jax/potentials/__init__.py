"""The interatomic potential CHGNet 0.3.0, relaxation, and energies above a hull.

  weights      the published weights, downloaded, checked and converted once
  neighbours   one crystal -> the bonds and angles that the network sees
  batching     several crystals -> one padded batch
  chgnet       the forward pass: energy, forces, stress and magnetic moments of a batch
  energies     all of it: structures -> energies and forces
  fire         one step of FIRE on atoms and cells of a batch
  rounds       several steps in one program
  descent      one crystal between rounds: how it enters a batch, and how it leaves
  packing      which crystals share a batch
  relax        all of it: structures -> relaxed structures
  relaxation   what relaxing takes and gives

CHGNet: Deng et al., Nature Machine Intelligence 5 (2023) 1031; trained on energies of the Materials
Project with its corrections (GGA and GGA+U), elements up to plutonium.
"""
