"""Crystals as files and objects: reading, writing, conversion, the store of samples."""
