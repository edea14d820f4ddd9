"""Scores of generated crystals: success rates, validity, diversity, distances, coverage."""
