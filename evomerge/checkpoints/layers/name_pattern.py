"""Find the layers: the one pattern of names that repeats once for each layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evomerge.checkpoints.header import TensorInfo
from evomerge.checkpoints.layers.sizes import Sizes
from evomerge.errors import CheckpointError

_PREDICTS = re.compile(r"(^|[._])(mtp|nextn)")
_PREDICTING = re.compile(r"(eh_proj|enorm|hnorm|shared_head|embed_tokens)\.")
_SAVE_WITHOUT = (
    "They are not supported yet: load the model with transformers' "
    "AutoModelForCausalLM, which leaves them out, and save it again."
)
_NUMBERED = re.compile(r"((?:[^.]+\.)*?)(0|[1-9][0-9]{0,5})\.(.+)")


@dataclass(frozen=True, slots=True)
class Stack:
    """The layers of a model.

    Attributes:
        prefix: What stands before a layer's number, with the dot.
        layers: Layer to name within the layer to tensor.
        outside: Names of the tensors of no layer.
    """

    prefix: str
    layers: Mapping[int, Mapping[str, TensorInfo]]
    outside: tuple[str, ...]


def find_stack(tensors: Mapping[str, TensorInfo], n_layers: int) -> Stack:
    """Find the names that repeat for the layers 0 to ``n_layers - 1``.

    Raises:
        CheckpointError: There is no such pattern, more than one, or layers are missing.
    """
    stacks: dict[str, dict[int, dict[str, TensorInfo]]] = {}
    outside: list[str] = []
    for name, info in tensors.items():
        if match := _NUMBERED.fullmatch(name):
            layers = stacks.setdefault(match[1], {})
            layers.setdefault(int(match[2]), {})[match[3]] = info
        else:
            outside.append(name)
    if not stacks:
        raise CheckpointError(
            "no tensor belongs to a layer: expected names such as "
            f"'model.layers.0.mlp.up_proj.weight', got {_some(tensors)}."
        )
    # A configuration may speak of a thousand million layers: what is stored is counted.
    fitting = [p for p, found in stacks.items() if len(found) == n_layers > max(found)]
    predicting = [p for p in stacks if _PREDICTS.search(p)]
    if predicting and len(stacks) - len(predicting) < 2:
        name = predicting[0]
        raise CheckpointError(
            f"{name}N ({len(stacks[name])}) are layers that predict further tokens, "
            f"beside the stack of decoder layers. {_SAVE_WITHOUT}"
        )
    if len(stacks) > 1:
        raise CheckpointError(
            "the tensors form several stacks, "
            f"{', '.join(f'{p}N ({len(stacks[p])})' for p in sorted(stacks))}, where "
            "one stack of decoder layers was expected. Encoder-decoders, models that "
            "see or hear, and layers that predict further tokens are not supported; "
            "save the text decoder alone."
        )
    (prefix,) = stacks
    if not fitting:
        found = stacks[prefix]
        odd = [
            layer
            for layer in range(min(n_layers, len(found) + 8))
            if layer not in found
        ]
        further = sorted(layer for layer in found if layer >= n_layers)
        names = [name for layer in further for name in found[layer]]
        if not odd and any(map(_PREDICTING.match, names)):
            raise CheckpointError(_further_layers(further, n_layers))
        odd += further
        raise CheckpointError(
            f"config.json speaks of {n_layers} layers (0 to {n_layers - 1}), but "
            f"layers {odd[:8]} are missing or too many. The folder is incomplete."
        )
    return Stack(prefix, stacks[prefix], tuple(outside))


def _further_layers(odd: list[int], n_layers: int) -> str:
    return (
        f"config.json speaks of {n_layers} layers (0 to {n_layers - 1}); layers "
        f"{odd[:8]} behind the last predict further tokens. {_SAVE_WITHOUT}"
    )


def is_transposed(layer: Mapping[str, TensorInfo]) -> bool:
    """Tell whether a layer's matrices are stored as [in, out].

    A bias is as long as its matrix has outputs; one that fits the second axis alone
    gives the layer away (GPT-2).
    """
    for name, info in layer.items():
        bias = layer.get(name.removesuffix(".weight") + ".bias")
        if name.endswith(".weight") and bias and len(info.shape) == 2:
            rows, columns = info.shape
            if rows != columns:
                return bias.shape == (columns,)
    return False


def experts_transposed(layer: Mapping[str, TensorInfo], sizes: Sizes) -> bool:
    """Tell whether a layer's 3-D experts are stored as [expert, in, out].

    What goes into the gate is as wide as the hidden state, and so is what comes out of
    the down projection.
    """
    for name, info in layer.items():
        if len(info.shape) != 3:
            continue
        rows, columns = info.shape[1:]
        if rows == columns or sizes.hidden not in (rows, columns):
            continue
        comes_out = "down" in name or "output" in name
        return (rows == sizes.hidden) != comes_out
    return False


def _some(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names)[:3])
