"""Decided merges as values: what they read, what they do, and their one form."""
