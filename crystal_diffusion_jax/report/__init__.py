"""One HTML file that shows a set of generated crystals: scores, pictures, structures, downloads."""
