"""Sums, elections of signs, and selection by variance."""
