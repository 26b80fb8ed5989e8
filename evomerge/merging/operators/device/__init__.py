"""Merges in one pass on an accelerator."""
