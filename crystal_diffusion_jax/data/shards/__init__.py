"""Data sets in many files, of which no process holds more than a few: write, open, batch."""
