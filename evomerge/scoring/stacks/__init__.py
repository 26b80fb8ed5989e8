"""Stacks of layers in a running engine."""
