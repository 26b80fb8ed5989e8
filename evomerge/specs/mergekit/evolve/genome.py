"""A genome of mergekit-evolve as a space: the same merges at corresponding points.

A genome has for each group of layers, model and filter a weight and perhaps a density.
Weights lose their sign unless negative ones are allowed, densities are cut to 0..1.
With ``slerp`` the two models with the largest genes are interpolated, at the second
part of their softmax. Of two models that is their arc, each point of it once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.core.digest import Scalar
from evomerge.core.operators import find
from evomerge.errors import CheckpointError
from evomerge.specs.mergekit.evolve.schema import GenomeSpec
from evomerge.specs.mergekit.operations import Decided, operation_of
from evomerge.specs.mergekit.references import Named
from evomerge.specs.reading.mistakes import Mistakes

MOST = 2.0
"""Largest weight searched; mergekit-evolve has no bound."""
_DENSITY = {"low": 0.001, "high": 1.0, "start": 1.0, "grid": 0.001, "log": False}
_ROLES = ("self_attn", "mlp")
_NORMALIZED = ("linear", "ties", "dare_ties")
_WITH_BASE = ("task_arithmetic", "ties", "dare_ties")


@dataclass(frozen=True, slots=True)
class Genome:
    """Where a search of mergekit-evolve leads, and what it begins with.

    Attributes:
        sources: Names of all models, the base among them, in order.
        spread: Standard deviation of its first step in the first searched knob, for
            each unit of mergekit-evolve's sigma, as a share of that knob's range.
    """

    sources: tuple[str, ...]
    frame: str | None
    vocabulary: str | None
    space: Mapping[str, Any]
    spread: float


def read_genome(spec: GenomeSpec, named: Named, mistakes: Mistakes) -> Genome | None:
    """Read a genome; None, and mistakes noted, if it is none.

    Args:
        spec: As it is written.
        named: Names its models.
        mistakes: Where to note what is wrong, and what has no equal.
    """
    models = _models(spec, named, mistakes)
    base = None
    if spec.base_model is not None:
        base = named.name(spec.base_model, "genome.base_model")
    elif spec.merge_method in _WITH_BASE:
        mistakes.add(
            "genome.base_model",
            f"expected a model, got nothing: {spec.merge_method} needs a base.",
        )
    _check_together(spec, mistakes)
    if spec.merge_method == "dare_ties":
        mistakes.warn(
            "genome.merge_method",
            "draws other masks than mergekit's, of the same density and strength; "
            "they follow the study's seed.",
        )
    experts = _experts(spec, models, base, mistakes)
    layers = _layers(spec, named, models, mistakes)
    by = _by(spec, layers, mistakes)
    vocabulary = _vocabulary(spec, named, mistakes)
    if mistakes.found:
        return None
    merges_base = spec.merge_method in _WITH_BASE
    sources = tuple(dict.fromkeys([*([base] if merges_base and base else []), *models]))
    frame = base if not merges_base and base in models else None
    space = _space(spec, experts, base if merges_base else None, by, len(models))
    spread = 1 / _width(spec)
    if spec.merge_method == "slerp":
        spread = math.sqrt(2.0) / 4.0  # of the softmax of two genes, where it begins
    return Genome(sources, frame, vocabulary, space, spread)


def _models(spec: GenomeSpec, named: Named, mistakes: Mistakes) -> list[str]:
    found: list[str] = []
    for i, written in enumerate(spec.models):
        name = named.name(written, f"genome.models.{i}")
        if name in found:
            mistakes.add(
                f"genome.models.{i}",
                f"expected every model once, got {written!r} again.",
            )
        elif name is not None:
            found.append(name)
    return found


def _check_together(spec: GenomeSpec, mistakes: Mistakes) -> None:
    if spec.int8_mask is not None:
        mistakes.warn("genome.int8_mask", "changes nothing, here as in mergekit.")
    if spec.merge_method != "slerp":
        return
    for key, said in (("smooth", spec.smooth), ("filters", spec.filters)):
        if said:
            mistakes.add(
                f"genome.{key}",
                f"expected nothing, got {said!r}: mergekit-evolve has no {key} with "
                "slerp.",
            )
    if spec.normalize is not None or spec.allow_negative_weights:
        mistakes.warn(
            "genome.merge_method",
            "normalize and allow_negative_weights change nothing with slerp, here as "
            "in mergekit.",
        )


def _experts(
    spec: GenomeSpec, models: Sequence[str], base: str | None, mistakes: Mistakes
) -> list[str]:
    method = spec.merge_method
    if method not in _WITH_BASE:
        if base is not None and base not in models:
            mistakes.warn(
                "genome.base_model",
                f"is no source here: mergekit refuses {method} with a base that is "
                "none of the models.",
            )
        if method == "slerp" and len(models) != 2:
            mistakes.add(
                "genome.models",
                f"expected two models, got {len(models)}: which two of more slerp "
                "takes changes from group to group in mergekit-evolve, which has no "
                "equal here. Name two, or take merge_method: linear.",
            )
        return list(models)
    experts = [name for name in models if name != base]
    if base in models:
        mistakes.warn(
            f"genome.models.{models.index(base)}",
            "is the base: its difference from itself is zero, so it gets no weight "
            "here; in mergekit-evolve its genes change nothing.",
        )
    if models and not experts:
        mistakes.add("genome.models", "expected a model beside the base, got none.")
    return experts


def _layers(
    spec: GenomeSpec, named: Named, models: Sequence[str], mistakes: Mistakes
) -> int | None:
    """Return how many layers the first model has, if the genome depends on it."""
    if spec.layer_granularity == 0 or not models or mistakes.found:
        return None
    only = {models[0]: named.references[models[0]]}
    opened = Named(named.file, mistakes, references=only).open()
    if models[0] not in opened:
        return None
    try:
        layers = opened[models[0]].n_layers
    except CheckpointError as error:
        mistakes.add("genome.models.0", f"expected a model: {error}")
        return None
    if layers % spec.layer_granularity:
        mistakes.add(
            "genome.layer_granularity",
            f"expected a divisor of the {layers} layers of {models[0]}, got "
            f"{spec.layer_granularity}.",
        )
    return layers


def _by(spec: GenomeSpec, layers: int | None, mistakes: Mistakes) -> dict[str, Any]:
    by: dict[str, Any] = {}
    groups = 1 if layers is None else layers // spec.layer_granularity
    if groups > 1 and spec.smooth:
        by["depth"] = groups
        mistakes.warn(
            "genome.smooth",
            "differs for final norm and head: here they take the last control point; "
            "mergekit gives them the first one, as the embedding.",
        )
    elif groups > 1:
        by["groups"] = spec.layer_granularity
    elif spec.smooth:
        mistakes.warn("genome.smooth", "changes nothing: there is one group of layers.")
    if spec.filters:
        by["roles"] = "split"
        _say_filters(spec.filters, mistakes)
    return by


def _say_filters(filters: Sequence[str], mistakes: Mistakes) -> None:
    strange = [one for one in filters if one not in _ROLES]
    absent = [one for one in _ROLES if one not in filters]
    if strange:
        mistakes.warn(
            "genome.filters",
            f"has no equal for {', '.join(map(repr, strange))}: here attention, "
            "feed-forward and all other tensors have values of their own.",
        )
    elif absent:
        mistakes.warn(
            "genome.filters",
            f"is wider here: {absent[0]} has values of its own too, and not those of "
            "the rest.",
        )
    mistakes.warn(
        "genome.filters",
        "differs for norms and biases within attention and feed-forward blocks: "
        "they are among the rest here; mergekit's filters go by names.",
    )


def _vocabulary(spec: GenomeSpec, named: Named, mistakes: Mistakes) -> str | None:
    wanted = spec.tokenizer_source
    if wanted is None or wanted in ("union", "base"):
        return None if wanted is None else str(wanted)
    known = dict(named.references)
    name = named.name(wanted, "genome.tokenizer_source")
    if name is not None and name not in known:
        mistakes.add(
            "genome.tokenizer_source",
            f"expected union, base or one of the models, got {wanted!r}.",
        )
    return name


def _width(spec: GenomeSpec) -> float:
    return 2 * MOST if spec.allow_negative_weights else MOST


def _space(
    spec: GenomeSpec,
    experts: Sequence[str],
    base: str | None,
    by: Mapping[str, Any],
    n_genes: int,
) -> dict[str, Any]:
    method = spec.merge_method
    open_knobs: dict[str, dict[str, Any]] = {}
    if method == "slerp":
        open_knobs["t"] = {"low": 0.0, "high": 1.0, "start": 0.5}
    else:
        low = -MOST if spec.allow_negative_weights else 0.0
        start = round(1 / n_genes, 6)
        open_knobs["weight"] = {"low": low, "high": MOST, "start": start}
    if method in ("ties", "dare_ties"):
        open_knobs["density"] = dict(_DENSITY)
    fine = {name: {"by": dict(by)} if by else {} for name in open_knobs}
    searched = {name: knob | fine[name] for name, knob in open_knobs.items()}
    knobs = {**searched, **_fixed(spec, experts, base)}
    return {
        "operator": method,
        **({} if base is None else {"base": base}),
        "experts": list(experts),
        "norm_policy": "same",
        "embed_policy": "same",
        "knobs": knobs,
    }


def _fixed(
    spec: GenomeSpec, experts: Sequence[str], base: str | None
) -> dict[str, Scalar]:
    """Return the knobs that mergekit has built in otherwise than the catalogue."""
    method = spec.merge_method
    if method == "slerp":
        return {}
    normalize = spec.normalize
    if normalize is None:
        normalize = method in _NORMALIZED
    shared: dict[str, Scalar] = {"normalize": normalize}
    if method == "dare_ties":
        shared["rescale"] = True
    decided = Decided(
        method,
        (*experts, *([] if base is None else [base])),
        base,
        tuple(shared.items()),
        (("weight", (1.0,) * len(experts)),),
    )
    usual = {knob.name: knob.default for knob in find(method).knobs}
    return {
        name: value
        for name, value in operation_of(decided, "identical").shared
        if name == "normalize" or (name != "seed" and value != usual[name])
    }
