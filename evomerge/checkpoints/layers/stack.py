"""Which tensors are the layers of the text decoder, and which stand beside it.

The layers are the one pattern of names that repeats once for each, among what is no
part of another kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from evomerge.checkpoints.header import TensorInfo
from evomerge.checkpoints.layers.beside import kind_of, predicts
from evomerge.errors import CheckpointError

_NUMBERED = re.compile(r"((?:[^.]+\.)*?)(0|[1-9][0-9]{0,5})\.(.+)")
_LISTED = frozenset({"weight", "bias"})
"""All that entries of a list of plain modules have: no layers."""

Numbered = dict[int, dict[str, TensorInfo]]


@dataclass(frozen=True, slots=True)
class Stack:
    """The layers of a model's text decoder, and what is not among them.

    Attributes:
        prefix: What stands before a layer's number, with the dot.
        layers: Layer to name within the layer to tensor.
        outside: Names of the decoder's tensors of no layer.
        beside: Names of the tensors of other parts, to the kind of part.
    """

    prefix: str
    layers: Mapping[int, Mapping[str, TensorInfo]]
    outside: tuple[str, ...]
    beside: Mapping[str, str] = field(default_factory=dict)


def find_stack(tensors: Mapping[str, TensorInfo], n_layers: int) -> Stack:
    """Find the names that repeat for the layers 0 to ``n_layers - 1``.

    Raises:
        CheckpointError: There is no such pattern, more than one, or layers are missing.
    """
    beside = {name: kind for name in tensors if (kind := kind_of(name))}
    stacks, outside = _stacks({n: t for n, t in tensors.items() if n not in beside})
    if not stacks:
        raise CheckpointError(
            "no tensor belongs to a layer: expected names such as "
            f"'model.layers.0.mlp.up_proj.weight', got {_some(tensors)}."
        )
    prefix = _only(stacks, n_layers)
    found = stacks[prefix]
    # A configuration may speak of a thousand million layers: what is stored is counted.
    further = sorted(layer for layer in found if layer >= n_layers)
    if further and all(predicts(found[layer]) for layer in further):
        for layer in further:
            names = found.pop(layer)
            beside |= {info.name: "prediction" for info in names.values()}
        further = []
    missing = [n for n in range(min(n_layers, len(found) + 8)) if n not in found]
    if odd := [*missing, *further]:
        raise CheckpointError(
            f"config.json speaks of {n_layers} layers (0 to {n_layers - 1}), but "
            f"layers {odd[:8]} are missing or too many. The folder is incomplete."
        )
    return Stack(prefix, found, tuple(outside), beside)


def _stacks(
    tensors: Mapping[str, TensorInfo],
) -> tuple[dict[str, Numbered], list[str]]:
    """Return what repeats by number, by what stands before it, and all the rest."""
    stacks: dict[str, Numbered] = {}
    outside: list[str] = []
    for name, info in tensors.items():
        if match := _NUMBERED.fullmatch(name):
            layers = stacks.setdefault(match[1], {})
            layers.setdefault(int(match[2]), {})[match[3]] = info
        else:
            outside.append(name)
    for prefix, layers in list(stacks.items()):
        if all(_LISTED.issuperset(names) for names in layers.values()):
            del stacks[prefix]
            outside += [t.name for names in layers.values() for t in names.values()]
    return stacks, outside


def _only(stacks: Mapping[str, Numbered], n_layers: int) -> str:
    if len(stacks) > 1:
        raise CheckpointError(
            "the tensors form several stacks, "
            f"{', '.join(f'{p}N ({len(stacks[p])})' for p in sorted(stacks))}, where "
            f"one stack of {n_layers} decoder layers was expected. Encoder-decoders "
            "and models of several decoders are not supported; save the text decoder "
            "alone."
        )
    (prefix,) = stacks
    return prefix


def _some(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names)[:3])
