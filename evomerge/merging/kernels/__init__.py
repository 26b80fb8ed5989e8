"""Arithmetic compiled to machine code: the inner loops of merging on a CPU."""
