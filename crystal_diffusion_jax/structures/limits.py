"""Limits of what counts as a crystal, and of the files that hold them.

A file may be damaged or hostile. Each limit is far above what real crystals need and low enough
that what lies below it is read in bounded memory.
"""

# A crystal of 1,000 atoms takes about 0.1 MB; a table of the reflections that were measured can
# take more than this.
MAX_CIF_CHARACTERS = 2**19


# The standard's own limit (CIF 1.1 and 2.0). pymatgen's search for quotes is quadratic in it.
MAX_CIF_LINE = 2048


# The matrix of distances and the denoiser's pairs grow with its square.
MAX_ATOMS = 1000


# Listed atoms times symmetry operations; many of the images may coincide.
MAX_IMAGES = 5_000


# Angstrom; generated crystals have the same limit (`structures.cell_defect`).
MAX_CELL_LENGTH = 1000.0


# Angstrom; beyond it lies the atom's own image. Closer than any two atoms.
MIN_CELL_LENGTH = 0.1


# Angstrom^3; CDVAE (arXiv:2110.06197) discards generated cells below it.
MIN_VOLUME = 0.1


# Angstrom; CDVAE calls a crystal with two atoms closer than this structurally invalid. Distances of
# an atom to its own images do not count.
MIN_VALID_DISTANCE = 0.5


# Beyond it a fractional coordinate leaves fewer than six digits behind the decimal point.
MAX_FRACTIONAL = 1e10


# Squares of properties are summed up, which must stay finite.
MAX_PROPERTY = 1e30


MAX_NAME = 200  # characters of a material's id


MAX_CRYSTALS = 1_000_000  # in one file; more come in several files (docs/scaling.md)
