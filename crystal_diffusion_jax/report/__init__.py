"""The HTML report on generated crystals, and animations of sampling trajectories."""
