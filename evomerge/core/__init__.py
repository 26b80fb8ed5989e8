"""The nouns of evomerge as plain values.

Only the standard library and numpy are loaded here, so the whole search can be
reasoned about, and tested, without torch, a GPU, a database or a cluster. Values are
frozen; anything with an effect lives in a higher package.
"""
