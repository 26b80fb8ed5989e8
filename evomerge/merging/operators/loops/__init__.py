"""Merges in one pass over their inputs, and what they read and draw."""
