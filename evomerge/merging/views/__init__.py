"""Models as sections of named tensors: stored, adapted, or merged when read."""
