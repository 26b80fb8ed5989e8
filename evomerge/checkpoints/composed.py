"""The model that a recipe makes, as a value: what is known of it before it is merged.

A recipe may be a source of further merges without ever being written. What a merge
must know beforehand, names, shapes, layers and their types, follows from its inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from evomerge.checkpoints.configs.families import layer_count_key
from evomerge.checkpoints.configs.nested import with_decoder
from evomerge.checkpoints.header import TensorInfo
from evomerge.checkpoints.layers.layout import Place
from evomerge.checkpoints.model import Model
from evomerge.core.recipes.recipe import Nested, Recipe


def composed(recipe: Recipe, models: Mapping[str, Model]) -> Model:
    """Describe what a recipe makes.

    Args:
        recipe: The merge. Its layers are layers that its inputs have.
        models: The folders it is made of, by the names that its inputs have; those of
            an input that is itself a recipe as ``input/name``, or by their own names.

    Returns:
        The frame's model with the layers of the merge. Its fingerprint is the recipe's
        digest; its tensors lie where those of the inputs they are shaped like lie, and
        are not its weights.

    Raises:
        KeyError: An input is missing.
    """
    known = {
        name: composed(source.recipe, _within(models, name))
        if isinstance(source, Nested)
        else models[name]
        for name, source in recipe.inputs
    }
    frame = known[recipe.frame]
    # A tied head has a place, but no tensor.
    places = {name: one for name, one in frame.places.items() if one.layer is None}
    tensors = {name: one for name, one in frame.tensors.items() if name in places}
    layers = {name: _layers(model) for name, model in known.items()}
    types = []
    for i, slot in enumerate(recipe.slots):
        like = slot.shaped_like(recipe.frame)
        index = slot.layer_of(like)
        types.append(known[like].layer_types[index])
        for info, place in layers[like][index]:
            name = frame.layout.full_name(i, place.suffix)
            tensors[name], places[name] = info, replace(place, layer=i)
    ends = recipe.embed.reads | recipe.head.reads
    decoder = frame.decoder
    key = layer_count_key(decoder)
    if decoder.get(key) is not None and not frame.layout.further:
        decoder = {**decoder, key: len(recipe.slots)}
    config = with_decoder(frame.config, decoder)
    return replace(
        frame,
        config=MappingProxyType(config),
        tensors=MappingProxyType(tensors),
        places=MappingProxyType(places),
        layer_types=tuple(types),
        tied=all(known[name].tied for name in ends),
        fingerprint=recipe.digest,
        origin=None,
        adapter=None,
    )


def _within(models: Mapping[str, Model], name: str) -> Mapping[str, Model]:
    """Return the folders of an input that is itself a recipe."""
    start = f"{name}/"
    found = {n.removeprefix(start): m for n, m in models.items() if n.startswith(start)}
    return found or models


def _layers(model: Model) -> list[list[tuple[TensorInfo, Place]]]:
    found: list[list[tuple[TensorInfo, Place]]] = [[] for _ in model.layer_types]
    for name, info in model.tensors.items():
        place = model.places[name]
        if place.layer is not None:
            found[place.layer].append((info, place))
    return found
