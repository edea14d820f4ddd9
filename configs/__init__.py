"""One file per experiment: numbers only."""
