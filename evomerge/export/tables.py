"""Tables of a card: what a model costs to run, and the recipe it was made by.

Equal neighbours in a recipe become one row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from evomerge.checkpoints.foldable import cumulative
from evomerge.core.cost import CONTEXT, RecipeCosts
from evomerge.core.digest import Scalar
from evomerge.core.recipes.recipe import ANY_ROLE, Nested, Operation, Recipe, Slot
from evomerge.errors import RecipeError
from evomerge.export.markup import markdown, table

RECIPE_HEAD = ("place", "tensors", "operator", "inputs", "knobs")


@dataclass(frozen=True, slots=True)
class CostRow:
    """The costs of one candidate.

    Attributes:
        layers: Layers that run.
        parameters: Entries that must be kept, equal layers once.
        flops: Operations for one token with 1024 to look at; None if unknown.
        tokens_per_second: As measured in the search; None if it was not.
    """

    label: str
    layers: int
    parameters: int
    flops: int | None
    tokens_per_second: float | None = None

    @classmethod
    def of(cls, label: str, costs: RecipeCosts, speed: float | None) -> CostRow:
        """Collect the costs of a candidate.

        Args:
            label: What readers know it by.
            costs: Those that follow from its recipe.
            speed: Tokens a second, if they were measured in the search.
        """
        try:
            flops = costs.flops()
        except RecipeError:
            flops = None
        return cls(label, costs.layers, costs.parameters, flops, speed)


def cost_table(rows: Sequence[CostRow]) -> str:
    """Return the costs as a Markdown table; the first row is the exported model."""
    timed = any(row.tokens_per_second is not None for row in rows)
    head = ["model", "layers", "parameters (equal layers once)"]
    head += [f"FLOPs per token (of {CONTEXT})"]
    head += ["tokens per second"] if timed else []
    lines = [
        (
            f"**{markdown(row.label)}** (this model)"
            if i == 0
            else markdown(row.label),
            str(row.layers),
            f"{row.parameters:,}",
            "unknown" if row.flops is None else f"{row.flops:,}",
            *([_speed(row.tokens_per_second)] if timed else []),
        )
        for i, row in enumerate(rows)
    ]
    return table(head, lines, is_numeric=True)


def _speed(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


Line = tuple[str, str, str, str]


Place = int | Literal["embed", "head", "beside"]
Tensors = Mapping[Place, Collection[tuple[str, str]]]
"""Place to name and role of every tensor, or piece of one, that is merged there."""


def recipe_table(recipe: Recipe, tensors: Tensors) -> str:
    """Return the recipe as a Markdown table, one row per place and tensor role.

    Roles of which a place has no tensor have no row.

    Where layers are scaled, a paragraph tells how the scales came into the weights. An
    input that is a recipe itself has a table of its own.
    """
    rows = recipe_rows(recipe, tensors)
    return "\n\n".join([table(RECIPE_HEAD, rows), *_note(recipe), *_nested(recipe)])


def recipe_rows(recipe: Recipe, tensors: Tensors) -> list[tuple[str, ...]]:
    """Return the rows of that table, below ``RECIPE_HEAD``."""
    return [
        (place if i == 0 else "", *line)
        for place, lines in _places(recipe, tensors)
        for i, line in enumerate(lines)
    ]


def _nested(recipe: Recipe) -> Iterator[str]:
    for name, source in recipe.inputs:
        if isinstance(source, Nested):
            yield f"{markdown(name)} is itself a merge, made while it is read:"
            yield recipe_table(source.recipe, {})


def _note(recipe: Recipe) -> Iterator[str]:
    scales = [slot.scale for slot in recipe.slots]
    n_scaled = sum(scale != 1.0 for scale in scales)
    if not n_scaled:
        return
    divisors = cumulative(scales)
    which = "one layer" if n_scaled == 1 else f"{n_scaled} layers"
    yield (
        f"The recipe scales the input of {which}. Here the scales are folded into the "
        "weights: what a layer adds to the hidden state is divided by the product of "
        f"the scales up to it ({_shown(min(divisors))} to {_shown(max(divisors))}). "
        "The model computes the same but for the epsilon in its norms and the rounding "
        "of its weights."
    )


def _places(recipe: Recipe, tensors: Tensors) -> Iterator[tuple[str, tuple[Line, ...]]]:
    if embedding := _lines(recipe.embed, None, tensors.get("embed")):
        yield "embedding", embedding
    read = [(i, _lines(slot, i, tensors.get(i))) for i, slot in enumerate(recipe.slots)]
    for lines, group in groupby(read, key=lambda entry: entry[1]):
        numbers = [i for i, _ in group]
        first, last = numbers[0], numbers[-1]
        yield f"layer {first}" if first == last else f"layers {first}–{last}", lines
    if head := _lines(recipe.head, None, tensors.get("head")):
        yield "head", head


def _lines(
    slot: Slot, index: int | None, tensors: Collection[tuple[str, str]] | None
) -> tuple[Line, ...]:
    roles = dict(slot.roles)
    if tensors is not None:
        used = {next(k for k in (*one, ANY_ROLE) if k in roles) for one in tensors}
        roles = {role: operation for role, operation in roles.items() if role in used}
    return tuple(
        (
            "all" if len(roles) == 1 else "others" if role == ANY_ROLE else role,
            markdown(operation.operator),
            _inputs(operation, slot, index),
            _knobs(operation, slot.scale),
        )
        # "*" sorts first, but reads best at the end.
        for role, operation in sorted(
            roles.items(), key=lambda entry: entry[0] == ANY_ROLE
        )
    )


def _inputs(operation: Operation, slot: Slot, index: int | None) -> str:
    layers = dict(slot.layers)

    def named(name: str) -> str:
        layer = layers.get(name, index)
        shown = markdown(name)
        return shown if layer == index else f"{shown} layer {layer}"

    text = ", ".join(named(name) for name in operation.inputs)
    if operation.base is not None:
        text += f"; base {named(operation.base)}"
    return text


def _knobs(operation: Operation, scale: float) -> str:
    parts = [f"{markdown(k)} {_shown(v)}" for k, v in operation.shared]
    for name, values in operation.each:
        parts.append(f"{markdown(name)} ({', '.join(_shown(v) for v in values)})")
    if scale != 1.0:
        parts.append(f"input scale {_shown(scale)}")
    return "; ".join(parts)


def _shown(value: Scalar) -> str:
    return f"{value:.6g}" if isinstance(value, float) else markdown(str(value))
