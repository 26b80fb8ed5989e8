"""Tensors that are stored apart and that transformers holds as one.

Transformers (from version 5) puts the matrices of all experts of a layer together when
it loads a model, and calls some tensors otherwise than they are stored. mergekit merges
what transformers holds, by the names it has there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_EXPERT = re.compile(r"(.*\bexperts)\.(\d+)\.(\w+)\.weight")
_MEMBERS = {
    "gate_proj": ("gate_up_proj", 0),
    "up_proj": ("gate_up_proj", 1),
    "down_proj": ("down_proj", 0),
    "w1": ("gate_up_proj", 0),
    "w3": ("gate_up_proj", 1),
    "w2": ("down_proj", 0),
}
"""Matrix of an expert, to the tensor it is part of and its place in each expert's."""
_APART = frozenset({"afmoe"})
"""Families of which mergekit lists the experts one by one."""
_MIXTRAL = (("block_sparse_moe.", "mlp."),)
_GRANITE = (
    ("block_sparse_moe.input_linear.weight", "block_sparse_moe.experts.gate_up_proj"),
    ("block_sparse_moe.output_linear.weight", "block_sparse_moe.experts.down_proj"),
    ("router.layer.weight", "router.weight"),
)
_RENAMED: Mapping[str, tuple[tuple[str, str], ...]] = {
    **dict.fromkeys(("mixtral", "minimax", "minimax_m2"), _MIXTRAL),
    "phimoe": (*_MIXTRAL, ("mlp.gate.weight", "mlp.router.weight")),
    **dict.fromkeys(("granitemoe", "granitemoeshared"), _GRANITE),
}
"""Family to parts of stored names, and what transformers has instead."""


def called(name: str, family: str) -> str:
    """Return what transformers calls a stored tensor, or the one it becomes part of.

    Args:
        name: As stored, with or without the layer.
        family: The ``model_type`` of the configuration.
    """
    for stored, other in _RENAMED.get(family, ()):
        name = name.replace(stored, other)
    match = _EXPERT.fullmatch(name)
    if match is None or match[3] not in _MEMBERS or family in _APART:
        return name
    return f"{match[1]}.{_MEMBERS[match[3]][0]}"


def together(names: Iterable[str], family: str) -> Mapping[str, tuple[str, ...]]:
    """Find the tensors of a layer that are held as one.

    Args:
        names: Of its tensors, within it.
        family: The ``model_type`` of the configuration.

    Returns:
        What the whole is called, to its members: those of the first expert first, its
        gate before its up projection.
    """
    found: dict[str, list[tuple[int, int, str]]] = {}
    for name in names:
        match = _EXPERT.fullmatch(name)
        if match is not None and match[3] in _MEMBERS and family not in _APART:
            place = int(match[2]), _MEMBERS[match[3]][1], name
            found.setdefault(called(name, family), []).append(place)
    return {
        whole: tuple(name for *_, name in sorted(members))
        for whole, members in found.items()
    }
