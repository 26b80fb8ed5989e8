"""Which tensor of a model is what, and what its layers compute."""
