"""How much memory a merge needs, and what is said where there is not as much."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from evomerge.checkpoints import BUFFER
from evomerge.core.recipes.recipe import (
    Adapted,
    Checkpoint,
    Input,
    Nested,
    Operation,
    Recipe,
    Slot,
)
from evomerge.core.recipes.settings import resolve
from evomerge.errors import SetupError
from evomerge.merging.devices import available_memory
from evomerge.merging.sources import TORCH_DTYPES, Sources
from evomerge.merging.views.merged import Merged
from evomerge.merging.views.stored import Part, Where

SCRATCH_BYTES = 256 << 20
"""The stated buffer: compiled code, blocks, counts of sizes, the writer's own."""
_WIDE = 4
"""Bytes of an entry while it is computed with."""
_DOUBLE = 8
_SAID = ("out of memory", "can't allocate memory", "cannot allocate memory")
"""How torch and the system say that there is no more."""


def needed_memory(recipe: Recipe, sources: Sources) -> int:
    """Return the most bytes that writing a merge may need at a time.

    That is the most any tensor takes: its inputs and the result in their types, the
    result in fp32 while it is computed, twice if scales are folded into it, and for
    methods on singular vectors their decompositions; then some scratch space. Inputs
    that lie in files can make room if they must, so most merges get by with less.

    Raises:
        RecipeError: The recipe does not fit its sources.
        CheckpointError: A source cannot be opened.
    """
    return _largest(recipe, sources) + SCRATCH_BYTES


def check_memory(recipe: Recipe, sources: Sources, limit: int | None) -> None:
    """Make sure that there is enough memory for a merge.

    Args:
        recipe: What is merged.
        sources: Where its inputs lie.
        limit: Most bytes to use; None takes what is free.

    Raises:
        SetupError: There is not.
    """
    found = available_memory() if limit is None else limit
    if found is None or sources.device.type != "cpu":
        return
    needed = needed_memory(recipe, sources)
    if needed > found:
        where = "are free" if limit is None else "may be used"
        raise SetupError(
            f"Not enough memory: the merge may need {needed / 1e9:.2f} GB, for all "
            f"inputs of its largest tensor and {SCRATCH_BYTES / 1e9:.2f} GB of "
            f"scratch, but {found / 1e9:.2f} GB {where}. Free some memory, merge fewer "
            "inputs at a time, or say with --memory how much to use."
        )


@contextmanager
def saying_memory_ran_out() -> Iterator[None]:
    """Put what the system and torch say of too little memory in our words.

    Raises:
        SetupError: Memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = str(error).lower()
        if not isinstance(error, MemoryError) and not any(x in said for x in _SAID):
            raise
        raise SetupError(
            "Memory ran out during the merge; what was written is removed. Free some "
            "memory, or merge fewer inputs at a time."
        ) from error


def _largest(recipe: Recipe, sources: Sources) -> int:
    """Return the most bytes that one tensor of a merge takes, with all it is made of.

    An input that is merged on the fly needs its own while the others are held.
    """
    merged = Merged(recipe, sources)
    recipe = merged.recipe
    slots: dict[Where, Slot] = {"embed": recipe.embed, "head": recipe.head}
    slots |= dict(enumerate(recipe.slots))
    slots["beside"] = recipe.beside
    widths = {name: _width(source, sources) for name, source in recipe.inputs}
    folded = _WIDE if any(slot.scale != 1.0 for slot in recipe.slots) else 0
    within = [
        _largest(source.recipe, sources)
        for _, source in recipe.inputs
        if isinstance(source, Nested)
    ]
    largest = max(
        _tensor(operation, part, merged.held_with(where, name), widths)
        + math.prod(part.shape) * folded
        for where, slot in slots.items()
        for name, part in merged.section(where).items()
        if part.role != BUFFER
        for operation in _operations(slot, name, part)
    )
    return largest + max(within, default=0)


def _operations(slot: Slot, name: str, part: Part) -> Iterator[Operation]:
    """Return what a tensor, or the pieces of it, are merged by."""
    for one in (name, *(piece.name for piece in part.pieces)):
        yield slot.operation(part.role, one)


def _tensor(operation: Operation, part: Part, n: int, widths: dict[str, int]) -> int:
    held = n * (sum(widths[name] for name in operation.reads) + part.dtype.itemsize)
    settings = resolve(operation)
    copies = settings.operator.wide_copies(settings.shared, len(operation.inputs))
    if len(part.shape) < 2 or not copies:
        return held + n * _WIDE
    experts = {piece.expert for piece in part.pieces}
    return held + n // max(len(experts), 1) * copies * _DOUBLE


def _width(source: Input, sources: Sources) -> int:
    """Return how many bytes an entry of an input takes once it is read."""
    match source:
        case Checkpoint():
            infos = sources.model(source.fingerprint).tensors.values()
            floats = [info.dtype for info in infos if info.is_float]
            return max((TORCH_DTYPES[name].itemsize for name in floats), default=_WIDE)
        case Adapted() | Nested():
            return _WIDE
        case _:
            return _width(source.of, sources)
