"""Which tensors are the layers of a model, and which stand beside them.

The layers of a text decoder are the one pattern of names that repeats once for each,
among what is no part of another kind. Encoder-decoders have two such patterns, and few
other models several; their layers are numbered through, those of an encoder first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from evomerge.checkpoints.configs.stack_counts import StackCounts, side_of
from evomerge.checkpoints.header import TensorInfo
from evomerge.checkpoints.layers.beside import kind_of, predicts
from evomerge.errors import CheckpointError

_NUMBERED = re.compile(r"((?:[^.]+\.)*?)(0|[1-9][0-9]{0,5})\.(.+)")
_LISTED = re.compile(r"(\w+_bias\.)?(weight|bias)")
"""All that entries of a list of plain modules, or of tables of biases, have: no
layers."""
_TOWERS = ("vision", "audio")

Numbered = dict[int, dict[str, TensorInfo]]


@dataclass(frozen=True, slots=True)
class Stack:
    """The layers of a model, and what is not among them.

    Attributes:
        prefixes: First layer of each stack, to what stands before its layers' numbers
            in names, with the dot. Nearly all models have one stack.
        layers: Layer to name within the layer to tensor; several stacks are numbered
            through.
        outside: Names of the tensors of no layer.
        beside: Names of the tensors of other parts, to the kind of part.
    """

    prefixes: Mapping[int, str]
    layers: Mapping[int, Mapping[str, TensorInfo]]
    outside: tuple[str, ...]
    beside: Mapping[str, str] = field(default_factory=dict)


def find_stack(tensors: Mapping[str, TensorInfo], counts: StackCounts) -> Stack:
    """Find the names that repeat for the layers of each stack, from 0 on.

    Raises:
        CheckpointError: There is no such pattern, one that the configuration does not
            speak of, or layers are missing.
    """
    beside = {name: kind for name in tensors if (kind := kind_of(name))}
    stacks, outside = _stacks({n: t for n, t in tensors.items() if n not in beside})
    if not stacks:
        raise CheckpointError(
            "no tensor belongs to a layer: expected names such as "
            f"'model.layers.0.mlp.up_proj.weight', got {_some(tensors)}."
        )
    if len(stacks) > 1 and counts.has_tower and not _has_tower(beside):
        raise _unexplained(stacks, counts)
    if len(stacks) == 1 and counts.paired:
        raise CheckpointError(
            "config.json speaks of an encoder-decoder, but the tensors form only one "
            f"stack of layers, {next(iter(stacks))}N. The folder is incomplete, or its "
            "is_encoder_decoder should be false."
        )
    prefixes: dict[int, str] = {}
    layers: dict[int, Mapping[str, TensorInfo]] = {}
    for prefix in sorted(stacks, key=lambda p: (side_of(p) == "decoder", p)):
        found = stacks[prefix]
        n_layers = counts.of(prefix, len(found), alone=len(stacks) == 1)
        if n_layers is None:
            raise _unexplained(stacks, counts)
        beside |= _complete(found, n_layers)
        first = len(layers)
        prefixes[first] = prefix
        layers |= {first + n: tensors for n, tensors in found.items()}
    return Stack(prefixes, layers, tuple(outside), beside)


def _has_tower(beside: Mapping[str, str]) -> bool:
    """Tell whether a tower's layers were told by their names."""
    return any(
        kind in _TOWERS and _NUMBERED.fullmatch(name) for name, kind in beside.items()
    )


def _complete(found: Numbered, n_layers: int) -> dict[str, str]:
    """Take out layers behind the last that predict further tokens; refuse others.

    Raises:
        CheckpointError: Layers are missing or too many.
    """
    # A configuration may speak of a thousand million layers: what is stored is counted.
    further = sorted(layer for layer in found if layer >= n_layers)
    beside: dict[str, str] = {}
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
    return beside


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
        if all(_are_listed(names) for names in layers.values()):
            del stacks[prefix]
            outside += [t.name for names in layers.values() for t in names.values()]
    return stacks, outside


def _are_listed(names: Mapping[str, TensorInfo]) -> bool:
    return all(map(_LISTED.fullmatch, names))


def _unexplained(
    stacks: Mapping[str, Numbered], counts: StackCounts
) -> CheckpointError:
    found = ", ".join(f"{p}N ({len(stacks[p])})" for p in sorted(stacks))
    said = sorted({counts.usual, *counts.said})
    return CheckpointError(
        f"the tensors form several stacks, {found}, where one stack of {counts.usual} "
        f"decoder layers was expected, or stacks of the numbers of layers that "
        f"config.json speaks of ({', '.join(map(str, said))}). Which of them are the "
        "decoder cannot be told; save the text decoder alone."
    )


def _some(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names)[:3])
