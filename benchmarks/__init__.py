"""Measurements of speed and quality; README.md keeps the tables."""
