"""Machines pretended on one: each may lose its power, its cable, its disk."""
