"""From a request to crystals: the reverse chain, its solvers, constraints, compositions."""
