"""Interatomic potentials, and relaxation with them."""
