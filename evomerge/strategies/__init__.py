"""Ask and tell by generations; always minimising; functions of (seed, history).

A strategy never sees a GPU, a database or a direction. Two kinds: a *fold* is brought
to its present state by repeating every ask and tell; the others rebuild their state
from the told rows, and what they decide once and keep is recorded with the generation.
"""
