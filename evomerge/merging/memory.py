"""How much memory a merge needs, and whether there is as much."""

from __future__ import annotations

import math

from evomerge.core.recipe import Recipe
from evomerge.errors import WorkerError
from evomerge.merging.free import available_memory
from evomerge.merging.materialise import describe
from evomerge.merging.sources import Sources

SCRATCH_BYTES = 256 << 20
"""The stated buffer: compiled code, blocks, counts of sizes, the writer's own."""
_WIDE = 4
"""Bytes of an entry while it is computed with."""


def needed_memory(recipe: Recipe, sources: Sources) -> int:
    """Return the most bytes that writing a merge may need at a time.

    That is the largest tensor, once for every input and twice more, in fp32, and some
    scratch space. Most merges need far less: one pass needs the result alone.
    """
    inputs = max(len(op.reads) for _, slot in recipe.places() for _, op in slot.roles)
    largest = max(math.prod(shape) for _, shape in describe(recipe, sources).values())
    return largest * _WIDE * (inputs + 2) + SCRATCH_BYTES


def check_memory(recipe: Recipe, sources: Sources, limit: int | None) -> None:
    """Make sure that there is enough memory for a merge.

    Args:
        recipe: What is merged.
        sources: Where its inputs lie.
        limit: Most bytes to use; None takes what is free.

    Raises:
        WorkerError: There is not.
    """
    found = available_memory() if limit is None else limit
    if found is None or sources.device.type != "cpu":
        return
    needed = needed_memory(recipe, sources)
    if needed > found:
        where = "are free" if limit is None else "may be used"
        raise WorkerError(
            f"The merge may need {needed / 1e9:.2f} GB of memory (its largest tensor "
            f"in float32 for every input and twice more), but {found / 1e9:.2f} GB "
            f"{where}. Merge fewer inputs at a time, or on a machine with more memory."
        )
