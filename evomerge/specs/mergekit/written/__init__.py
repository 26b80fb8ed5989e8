"""Recipes written as mergekit files."""
