"""The interatomic potential CHGNet 0.3.0, relaxation, and energies above a hull.

  weights      the published weights, downloaded, checked and converted once
  neighbours   one crystal -> the bonds and angles that the network sees
  batching     several crystals -> one padded batch
  layers       the network's layers, with their activations in activations
  chgnet       the forward pass: energy, forces, stress and magnetic moments of a batch
  energies     all of it: structures -> energies and forces
  fire         one step of FIRE on atoms and cells of a batch
  rounds       several steps in one program
  descent      one crystal between rounds: how it enters a batch, and how it leaves
  packing      which crystals share a batch
  relax        all of it: structures -> relaxed structures
  with_ase     the same with any calculator of ASE; drivers chooses
  relaxation   what relaxing takes and gives
  changes      how far a crystal is from its relaxed self
  relax_folder relaxed crystals as a folder; relaxed_database, _store, _table and _samples hold them
  references   reference energies of the elements
  hull         energies above the hull of known phases, also of the Materials Project's

CHGNet: Deng et al., Nature Machine Intelligence 5 (2023) 1031; trained on energies of the Materials
Project with its corrections (GGA and GGA+U), elements up to plutonium.
"""
