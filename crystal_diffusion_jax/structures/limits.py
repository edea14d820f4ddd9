"""Limits of what counts as a crystal, and of the files that hold crystals.

A file may be damaged or hostile. Each limit is far above what real crystals need, and low enough
that files within it are read in bounded memory.
"""

# A crystal of 1,000 atoms takes about 0.1 MB; a table of measured reflections can be larger.
MAX_CIF_CHARACTERS = 2**19
# The standard's own limit (CIF 1.1 and 2.0). pymatgen's search for quotes is quadratic in it.
MAX_CIF_LINE = 2048
# Distance matrices and the denoiser's pairs grow with its square.
MAX_ATOMS = 1000
# Listed atoms times symmetry operations; many of the images may coincide.
MAX_IMAGES = 5_000
MAX_CELL_LENGTH = 1000.0  # Angstrom
# Angstrom; below it, an atom would be nearer to its own image than two atoms of any crystal are.
MIN_CELL_LENGTH = 0.1
# Angstrom^3; CDVAE (arXiv:2110.06197) discards generated cells below it.
MIN_VOLUME = 0.1
# Angstrom; a crystal with two atoms closer than this is structurally invalid (CDVAE). Distances of
# an atom to its own images do not count.
MIN_VALID_DISTANCE = 0.5
# Beyond it a fractional coordinate has fewer than six digits after the decimal point.
MAX_FRACTIONAL = 1e10
# Squares of properties are summed, which must stay finite.
MAX_PROPERTY = 1e30
MAX_NAME = 200  # characters of a material's id
# Crystals of one set to sample or evaluate, all of which are in memory.
MAX_CRYSTALS = 1_000_000
