"""Scores of crystals: success, validity, diversity, stability, and of predicted structures."""
