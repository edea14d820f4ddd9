"""Command-line programs: flags in, library calls out."""
