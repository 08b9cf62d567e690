"""Correct segmentations and the errors that ``quality_flags.py`` injects into them."""
