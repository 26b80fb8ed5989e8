"""Merges in one pass over their inputs."""
