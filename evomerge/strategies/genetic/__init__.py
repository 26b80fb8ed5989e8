"""Populations and climbers: genomes, their changes, and who survives."""
