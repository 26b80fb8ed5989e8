"""Whole studies: from a file, in stages, or from what a database kept."""
