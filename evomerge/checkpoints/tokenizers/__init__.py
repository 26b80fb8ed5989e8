"""Tokenizers of model folders: the tokens, their rows, and whether two are equal."""
