"""In what two recipes differ, tensor by tensor, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from evomerge.checkpoints import Model
from evomerge.checkpoints.alignment import Plan
from evomerge.core.digest import Scalar
from evomerge.core.recipes.operation import Operation
from evomerge.core.recipes.recipe import Input, Recipe, Slot, Transformed
from evomerge.specs.mergekit.operations import stated
from evomerge.specs.mergekit.tensors import Parts, Where
from evomerge.specs.mergekit.written.parameters import as_mergekit_says

_SHOWN = 2
"""Places that a sentence names; the others are counted."""


def differences(
    wanted: Recipe, found: Recipe, models: Mapping[str, Model]
) -> tuple[str, ...]:
    """Say in what a recipe differs from the one it should be.

    Args:
        wanted: What was to be written.
        found: What reads back.
        models: Input name to model.

    Returns:
        One sentence for each thing, with the places where it is so.
    """
    parts = {name: Parts(model) for name, model in models.items()}
    places: dict[str, list[str]] = {}
    for where, sentence in _differences(wanted, found, parts):
        places.setdefault(sentence, []).append(where)
    return tuple(
        f"{sentence}{_where(found_in)}." for sentence, found_in in places.items()
    )


def _where(places: list[str]) -> str:
    named = [place for place in places if place]
    if not named:
        return ""
    more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
    return f" ({', '.join(named[:_SHOWN])}{more})"


def _differences(
    wanted: Recipe, found: Recipe, parts: Mapping[str, Parts]
) -> Iterator[tuple[str, str]]:
    if wanted.frame != found.frame:
        yield "", f"Config and tokenizer are those of {wanted.frame!r}"
    if wanted.fused != found.fused:
        ours, its = ("each by itself", "as one")[:: -1 if wanted.fused else 1]
        yield (
            "",
            "What transformers holds as one tensor, such as the experts of a layer, is "
            f"merged {ours}, and in mergekit {its}",
        )
    for name, source in wanted.inputs:
        if _rows(source) != _rows(dict(found.inputs).get(name)):
            yield (
                name,
                "Rows of embedding and head come about otherwise: their padding, or "
                "what a model gets for a token it lacks",
            )
    for (label, one), (_, other) in zip(wanted.places(), found.places(), strict=True):
        if one.scale != other.scale:
            yield label, "The hidden state is scaled, which mergekit cannot do"
        layers = dict(one.layers)
        if any(dict(other.layers).get(n, i) != i for n, i in layers.items()):
            yield label, "Other layers are merged"
        for name, role in _tensors(one, label, parts):
            for sentence in _between(
                one.operation(role, name), other.operation(role, name), label
            ):
                yield f"{label}, {name}", sentence


def _rows(source: Input | None) -> tuple[Scalar, ...]:
    """Return what decides which rows an input has."""
    if not isinstance(source, Transformed):
        return ()
    plan = Plan.of(dict(source.settings))
    return source.statistics, plan.missing, plan.base or "", plan.apart


def _tensors(
    slot: Slot, label: str, parts: Mapping[str, Parts]
) -> Iterator[tuple[str, str]]:
    layers = dict(slot.layers)
    seen: set[str] = set()
    for name in dict.fromkeys(n for _, op in slot.roles for n in op.reads):
        where: Where = layers[name] if layers else label
        for suffix, tensor in parts[name].of(where).items():
            if suffix not in seen:
                seen.add(suffix)
                yield suffix, tensor.role


def _between(one: Operation, other: Operation, label: str) -> Iterator[str]:
    one, other = stated(as_mergekit_says(one)), stated(as_mergekit_says(other))
    if one.operator != other.operator:
        yield (
            f"Tensors are merged by {one.operator}, but mergekit has one method for "
            f"the whole merge, here {other.operator}"
        )
        return
    if (one.inputs, one.base) != (other.inputs, other.base):
        from_ = "first" if label == "embed" else "last" if label == "head" else "same"
        yield (
            f"Inputs {' and '.join(one.reads)} are merged, but mergekit takes the "
            f"inputs of the {from_} slice, {' and '.join(other.reads)}"
        )
        return
    mine, its = dict(one.shared) | dict(one.each), dict(other.shared) | dict(other.each)
    for knob, value in mine.items():
        if its.get(knob) != value:
            yield (
                f"Knob {knob} of {one.operator} is {_said(value)}, and in mergekit "
                f"{_said(its.get(knob))}"
            )


def _said(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
