"""A real model and two experts of it: SmolLM2-135M-Instruct, fine-tuned on the spot.

The model comes out of a package that ships it, so that nothing but a package index is
needed. ``docs/zoo.md`` tells what is in it.
"""

from evomerge.zoo.real.build import RealZoo, counting, make_real_zoo
from evomerge.zoo.real.skills import EXPERTS

__all__ = ["EXPERTS", "RealZoo", "counting", "make_real_zoo"]
