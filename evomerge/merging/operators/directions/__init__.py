"""Operators on singular vectors, and along arcs."""
