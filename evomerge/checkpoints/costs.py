"""What of a stored model costs something to keep and to run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from evomerge.checkpoints.alignment import Plan, align
from evomerge.checkpoints.configs.families import Sizes, read_sizes
from evomerge.checkpoints.configs.layer_types import windows
from evomerge.checkpoints.header import TensorInfo
from evomerge.checkpoints.layers.layout import Place
from evomerge.checkpoints.layers.names import BUFFER
from evomerge.checkpoints.model import Model
from evomerge.core.measures import LayerFacts, ModelFacts
from evomerge.core.recipes.recipe import Adapted, Checkpoint, Input, Transformed
from evomerge.errors import CheckpointError

_MULTIPLIES = frozenset({"attn", "mlp", "expert", "router"})
_SENT_TO = (
    *("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k"),
    *("experts_per_token", "moe_k"),
)
"""Keys that hold how many experts a token is sent to."""
_ALL_EXPERTS = re.compile(r"(^|\.)shared_")
"""Experts that every token is sent to."""

Tensors = list[tuple[Place, TensorInfo]]


def facts_of(model: Model) -> ModelFacts:
    """Read off what a model costs; a low-rank adapter is part of the weights."""
    layers: list[Tensors] = [[] for _ in range(model.n_layers)]
    outside: dict[str, int] = {"embed": 0, "head": 0}
    for name, info in model.tensors.items():
        place = model.places[name]
        if place.role == BUFFER or place.section == "beside":
            continue
        if place.layer is not None:
            layers[place.layer].append((place, info))
        else:
            outside[place.section] += math.prod(info.shape)
    matrix = model.layout.embed if model.tied else model.layout.head
    head = math.prod(model.tensors[matrix].shape)
    sizes = read_sizes(model.decoder)
    seen = windows(model.decoder, model.layer_types)
    return ModelFacts(
        layers=tuple(
            _layer(tensors, window, sizes, model.decoder)
            for tensors, window in zip(layers, seen, strict=True)
        ),
        embed=outside["embed"],
        head=head,
        ending=outside["head"] - (0 if model.tied else head),
        tied=model.tied,
    )


def lookup_among(models: Iterable[Model]) -> Callable[[Input], ModelFacts]:
    """Return what finds the facts of an input that is read from these models.

    It raises CheckpointError for an input that is read from others.
    """
    known = {model.fingerprint: model for model in models}

    @cache
    def plain(fingerprint: str) -> ModelFacts:
        return facts_of(_found(known, fingerprint))

    @cache
    def find(source: Input) -> ModelFacts:
        match source:
            case Checkpoint() | Adapted():
                return plain(source.fingerprint)
            case Transformed():
                return _with_rows(find(source.of), source, known)
        raise CheckpointError("A recipe within a recipe has no facts of its own.")

    return find


def _with_rows(
    facts: ModelFacts, source: Transformed, known: Mapping[str, Model]
) -> ModelFacts:
    """Return the facts of a model brought to another vocabulary."""
    among = {
        name: _found(known, one.fingerprint)
        for name, one in source.among
        if isinstance(one, Checkpoint | Adapted)
    }
    rows = align(among, Plan.of(dict(source.settings))).rows
    model = next(among[name] for name, one in source.among if one == source.of)
    old, width = model.tensors[model.layout.embed].shape
    return ModelFacts(
        layers=facts.layers,
        embed=facts.embed + (rows - old) * width,
        head=rows * width,
        ending=facts.ending,
        tied=facts.tied,
    )


def _found(known: Mapping[str, Model], fingerprint: str) -> Model:
    try:
        return known[fingerprint]
    except KeyError:
        raise CheckpointError(
            f"No source has the fingerprint {fingerprint!r}; known are {sorted(known)}."
        ) from None


def _layer(
    tensors: Tensors, window: int | None, sizes: Sizes, config: Mapping[str, Any]
) -> LayerFacts:
    heads, head = sizes.heads, sizes.head
    return LayerFacts(
        parameters=sum(math.prod(info.shape) for _, info in tensors),
        active=_active(tensors, sizes, config),
        queries=heads * head if heads and head else None,
        window=window,
    )


def _active(tensors: Tensors, sizes: Sizes, config: Mapping[str, Any]) -> int | None:
    always = routed = 0
    for place, info in tensors:
        if place.role not in _MULTIPLIES or len(info.shape) < 2:
            continue
        if place.role == "expert" and not _ALL_EXPERTS.search(place.suffix):
            routed += math.prod(info.shape)
        else:
            always += math.prod(info.shape)
    if not routed:
        return always
    sent_to = next((n for k in _SENT_TO if type(n := config.get(k)) is int), None)
    if sent_to is None or not sizes.experts:
        return None
    return always + routed * min(sent_to, sizes.experts) // sizes.experts
