"""Interatomic potentials: energies and forces, relaxation, energies above a hull."""
