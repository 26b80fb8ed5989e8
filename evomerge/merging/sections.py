"""Some sections of a merge, for an engine that holds the others already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from evomerge.merging.inputs import Where
from evomerge.merging.merged import Merged
from evomerge.merging.sources import Space


def merge_sections(
    merged: Merged,
    wanted: Iterable[tuple[Where, Where]],
    space: Space,
    *,
    untie: bool = False,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Merge the tensors of some sections, one at a time.

    Args:
        merged: The recipe, opened.
        wanted: Each section, and the section its tensors are named for: layer 3 may be
            written to slot 0.
        space: Gives the memory of the results.
        untie: Give a tied result an output head of its own, with its section.

    Yields:
        Name and merged tensor, as ``materialise`` gives them.

    Raises:
        CheckpointError: A source changed since it was recorded.
        CandidateError: A merged tensor is not finite; the message names it.
    """
    for where, target in wanted:
        for name in merged.section(where):
            yield (
                merged.layout.full_name(target, name),
                merged.merge(where, name, space),
            )
        if where == "head" and untie and merged.tied:
            name = merged.layout.head
            yield name, merged.merge(where, name, space)
