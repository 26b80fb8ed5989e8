"""Layers of whole models set on each other: which layer of which input fills a slot.

Passthrough slices and depth up-scaling (MergeKit, 2403.13257; SOLAR, 2312.15166) and
layer shuffling say nothing about values: each slot is one layer of one input. Every
slot is written out, also where a layer repeats, so that caches count layers as usual.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from evomerge.core.digest import canonical_json
from evomerge.core.recipes.recipe import (
    VERSION,
    Checkpoint,
    Input,
    Operation,
    Recipe,
    Slot,
)
from evomerge.errors import RecipeError


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of one input.

    Attributes:
        source: Name of the input.
        index: The layer, from 0.
        scale: Factor on what the layer adds to the hidden state; 0 adds nothing.
    """

    source: str
    index: int
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Run:
    """Layers ``first`` to ``end - 1`` of one input, in order."""

    source: str
    first: int
    end: int
    scale: float = 1.0

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in order."""
        indices = range(self.first, self.end)
        return tuple(Layer(self.source, i, self.scale) for i in indices)


def stack(runs: Iterable[Run]) -> tuple[Layer, ...]:
    """Set runs of layers on each other (passthrough).

    Raises:
        RecipeError: A run is empty, or there is none.
    """
    layers: list[Layer] = []
    for run in runs:
        if not 0 <= run.first < run.end:
            raise RecipeError(
                f"A slice of {run.source!r} runs from layer {run.first} to before "
                f"{run.end}, which is empty. Give the first layer and the one after "
                "the last."
            )
        layers += run.layers
    if not layers:
        raise RecipeError("A stack needs at least one slice.")
    return tuple(layers)


def upscale(source: str, n_layers: int, overlap: int) -> tuple[Layer, ...]:
    """Repeat the middle of a model (Kim et al. 2023, 2312.15166, SOLAR).

    The model without its last ``overlap`` layers, then itself without its first: 32
    layers with an overlap of 8 become 48.

    Raises:
        RecipeError: Nothing would be left of the model.
    """
    if not 0 <= overlap < n_layers:
        raise RecipeError(
            f"An overlap of {overlap} leaves nothing of {n_layers} layers; it must be "
            f"from 0 to {n_layers - 1}."
        )
    return stack([Run(source, 0, n_layers - overlap), Run(source, overlap, n_layers)])


def shuffle(
    donors: Mapping[str, float], n_layers: int, seed: int, *, full: bool = False
) -> tuple[Layer, ...]:
    """Draw a donor for every layer.

    Every draw is a hash of the seed and the layer, so it is the same on every machine.

    Args:
        donors: Name of the input to its weight in the draw.
        n_layers: Layers of the result, and of every donor.
        seed: Another seed draws other donors.
        full: Draw the order of the layers too.

    Raises:
        RecipeError: No donor has a positive weight, or one has a negative one.
    """
    total = sum(donors.values())
    if total <= 0 or min(donors.values()) < 0:
        raise RecipeError(
            f"Donors are drawn by weights that are not negative and not all zero, but "
            f"got {dict(donors)}."
        )
    order = list(range(n_layers))
    if full:
        order.sort(key=lambda layer: _draw(seed, "order", layer))
    names, weights = list(donors), list(donors.values())
    ends = list(accumulate(weights))
    drawn = (_draw(seed, "donor", place) * total for place in range(n_layers))
    chosen = (names[bisect_right(ends, draw, hi=len(ends) - 1)] for draw in drawn)
    return tuple(Layer(name, i) for name, i in zip(chosen, order, strict=True))


def switch(
    donors: Sequence[str], n_layers: int, points: Sequence[int]
) -> tuple[Layer, ...]:
    """Change the donor at some layers: a layer shuffle with fewer choices.

    Args:
        donors: One more than there are points, in order.
        n_layers: Layers of the result, and of every donor.
        points: The layers at which the next donor takes over, ascending; two at one
            layer skip a donor.

    Raises:
        RecipeError: Points and donors do not fit together.
    """
    ends = [0, *points, n_layers]
    if len(donors) != len(points) + 1 or ends != sorted(ends):
        raise RecipeError(
            f"{len(donors)} donors change at {len(donors) - 1} layers from 0 to "
            f"{n_layers}, in ascending order, but got {list(points)}."
        )
    parts = zip(donors, ends, ends[1:], strict=False)
    return stack(Run(name, a, b) for name, a, b in parts if a < b)


def _draw(seed: int, what: str, place: int) -> float:
    """Return a number from 0 to below 1 that only depends on the arguments."""
    text = canonical_json([seed, "stack", what, place]).encode()
    word = hashlib.blake2b(text, digest_size=8).digest()
    return (int.from_bytes(word, "little") >> 11) / 2**53


@dataclass(frozen=True, slots=True)
class Frame:
    """What a stack needs beside its layers.

    Attributes:
        frame: The input that gives config and tokenizer.
        dtype: Element type of the result.
        inputs: Name to input.
        outputs: Input name to the tensors of a layer, by their names in it, that write
            to the hidden state; only read where a layer is scaled.
        embed: Whose embedding is taken; the first layer's input if None.
        head: Whose final norm and head are taken; the last layer's input if None.
    """

    frame: str
    dtype: str
    inputs: Mapping[str, Input]
    outputs: Mapping[str, Sequence[str]]
    embed: str | None = None
    head: str | None = None


def recipe_of(layers: Sequence[Layer], frame: Frame) -> Recipe:
    """Write the recipe of a stack: every slot copies one layer.

    Raises:
        RecipeError: A layer is scaled whose outputs are not known.
    """
    first = frame.embed or layers[0].source
    last = frame.head or layers[-1].source
    used = {frame.frame, first, last, *(layer.source for layer in layers)}
    return Recipe(
        frame=frame.frame,
        dtype=frame.dtype,
        inputs=tuple((name, frame.inputs[name]) for name in sorted(used)),
        embed=Slot.copy_of(first),
        slots=tuple(_slot(layer, frame.outputs) for layer in layers),
        head=Slot.copy_of(last),
    )


def _slot(layer: Layer, outputs: Mapping[str, Sequence[str]]) -> Slot:
    slot = Slot.copy_of(layer.source, layer.index)
    if layer.scale == 1.0:
        return slot
    names = outputs.get(layer.source, ())
    if not names:
        raise RecipeError(
            f"Layer {layer.index} of {layer.source!r} is scaled, but it is not known "
            "which of its tensors write to the hidden state. Use a scale of 1."
        )
    scaled = Operation.copy_of(layer.source, layer.scale)
    return replace(slot, roles=(*slot.roles, *((name, scaled) for name in names)))


def passthrough(
    name: str,
    source: Input | str,
    n_layers: int,
    dtype: str,
    *,
    version: int = VERSION,
) -> Recipe:
    """Write the recipe whose merge is one parent as it stands.

    Args:
        name: What the parent is called among the recipe's inputs; also its frame.
        source: The parent; a plain one may be named by its fingerprint alone.
        n_layers: Layers of the parent; slot i takes layer i.
        dtype: Element type of the result.
        version: Of the recipe.
    """
    return Recipe(
        frame=name,
        dtype=dtype,
        inputs=((name, Checkpoint(source) if isinstance(source, str) else source),),
        embed=Slot.copy_of(name),
        slots=tuple(Slot.copy_of(name, i) for i in range(n_layers)),
        head=Slot.copy_of(name),
        version=version,
    )
