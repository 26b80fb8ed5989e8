"""What a merged model costs to keep and to run, worked out from its recipe.

Costs are measures beside those of tasks, under the task ``cost``:

* ``cost/layers``: layers that run, repeats counted.
* ``cost/parameters``: entries that must be kept. Places of the stack that hold the same
  weights are kept once, whatever their scales; so is a head that is the embedding.
* ``cost/flops``: floating-point operations for one token that has 1024 tokens before
  and including it to look at, or so many as ``cost/flops@4096`` says. Two for every
  entry of a matrix that the token meets (Kaplan et al. 2020, 2001.08361, section 2.1;
  of a mixture's experts only those it is sent to), and for each layer four for every
  entry of the queries and token looked at.
* ``cost/tokens_per_second``: measured, see :class:`Speed`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from evomerge.core.measures import (
    Evidence,
    LayerFacts,
    Lookup,
    MeasureSource,
    ModelFacts,
    Need,
)
from evomerge.core.recipes.layer_keys import LayerKeys
from evomerge.core.recipes.recipe import Nested, Recipe, Slot
from evomerge.errors import RecipeError

COST = "cost"
"""What stands for a task in the measures of this module."""
CONTEXT = 1024
"""Tokens a token looks at where a measure does not say it."""
SPEED = "tokens_per_second"
SPEED_MEASURE = f"{COST}/{SPEED}"
FIXED = ("layers", "parameters", "flops")
"""Costs that follow from the recipe alone."""
COSTS = (*FIXED, SPEED)


@dataclass(frozen=True)
class RecipeCosts:
    """The costs of one recipe."""

    recipe: Recipe
    facts: ModelFacts

    @classmethod
    def of(cls, recipe: Recipe, lookup: Lookup) -> RecipeCosts:
        """Work out what a recipe costs.

        Raises:
            RecipeError: It takes a layer that an input lacks.
        """
        return cls(recipe, _merged(recipe, lookup))

    @property
    def layers(self) -> int:
        """Layers that run."""
        return len(self.recipe.slots)

    @cached_property
    def parameters(self) -> int:
        """Entries that must be kept, equal weights once."""
        facts = self.facts
        kept = dict(zip(LayerKeys.of(self.recipe).layers, facts.layers, strict=True))
        head = 0 if facts.tied else facts.head
        return (
            facts.embed
            + head
            + facts.ending
            + sum(layer.parameters for layer in kept.values())
        )

    def flops(self, context: int = CONTEXT) -> int:
        """Return the operations for one token that looks at ``context`` tokens.

        Raises:
            RecipeError: The configuration of an input leaves it open.
        """
        total = 2 * self.facts.head
        for place, layer in enumerate(self.facts.layers):
            found = layer.flops(context)
            if found is None:
                raise RecipeError(
                    f"The operations of layer {place} are not known: its config.json "
                    "does not say how many heads it has, or how many experts a token "
                    f"is sent to. Leave out {COST}/flops."
                )
            total += found
        return total

    def value(self, metric: str) -> float:
        """Return a cost by its name in measures; not the measured speed."""
        kind, context = parse(metric)
        if kind == "flops":
            return float(self.flops(context))
        return float(self.layers if kind == "layers" else self.parameters)


@dataclass(frozen=True, slots=True)
class Speed:
    """Generated tokens and the seconds that scoring took, of the same blocks."""

    tokens: int = 0
    seconds: float = 0.0

    def plus(self, tokens: int, seconds: float) -> Speed:
        """Return this and one more block."""
        return Speed(self.tokens + tokens, self.seconds + seconds)

    @property
    def tokens_per_second(self) -> float:
        """The rate; 0 where nothing was generated."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


def parse(metric: str) -> tuple[str, int]:
    """Split the name of a cost into its kind and the tokens it is told for.

    Raises:
        RecipeError: There is no such cost.
    """
    kind, at, number = metric.partition("@")
    is_number = number.isdecimal() and 0 < int(number) < 2**31
    if kind not in COSTS or (at and not (kind == "flops" and is_number)):
        raise RecipeError(
            f"There is no cost {metric!r}; there are {', '.join(COSTS)}, and "
            "flops@N for N tokens of context."
        )
    return kind, int(number) if at else CONTEXT


class Costs(MeasureSource):
    """The costs of candidates, as a source of measures."""

    def sense(self, metric: str) -> bool:
        """Tell whether more is better.

        Raises:
            RecipeError: There is no such cost.
        """
        return parse(metric)[0] == SPEED

    def needs(self, metric: str) -> frozenset[Need]:
        """Return what a cost follows from."""
        return frozenset({Need.SPEED if metric == SPEED else Need.RECIPE})

    def unfit(self, metrics: Sequence[str], facts: ModelFacts) -> str | None:
        """Say why these cannot be told of merges of a source; None if they can."""
        if "flops" not in {parse(metric)[0] for metric in metrics}:
            return None
        for place, layer in enumerate(facts.layers):
            if layer.flops(1) is None:
                return (
                    "expected a config.json that tells how many heads there are and "
                    f"how many experts a token is sent to, for {COST}/flops; layer "
                    f"{place} leaves it open. Ask for {COST}/layers or "
                    f"{COST}/parameters instead."
                )
        return None

    def values(self, metrics: Sequence[str], found: Evidence) -> dict[str, float]:
        """Return the costs of a candidate by their names.

        Raises:
            RecipeError: They cannot be told of this recipe.
        """
        told = {}
        if SPEED in metrics and found.tokens_per_second is not None:
            told[SPEED] = found.tokens_per_second
        if fixed := [metric for metric in metrics if metric != SPEED]:
            costs = RecipeCosts.of(found.recipe, found.lookup)
            told |= {metric: costs.value(metric) for metric in fixed}
        return told


def _merged(recipe: Recipe, lookup: Lookup) -> ModelFacts:
    """Return the facts of a recipe's result: inputs of a place are of one shape."""
    known: dict[str, ModelFacts] = {
        name: _merged(source.recipe, lookup)
        if isinstance(source, Nested)
        else lookup(source)
        for name, source in recipe.inputs
    }
    embed, head = sorted(recipe.embed.reads), sorted(recipe.head.reads)
    first = known[recipe.frame if recipe.frame in embed else embed[0]]
    last = known[recipe.frame if recipe.frame in head else head[0]]
    return ModelFacts(
        layers=tuple(_layer(slot, recipe.frame, known) for slot in recipe.slots),
        embed=first.embed,
        head=last.head,
        ending=last.ending,
        tied=all(known[name].tied for name in (*embed, *head)),
    )


def _layer(slot: Slot, frame: str, known: Mapping[str, ModelFacts]) -> LayerFacts:
    fed = dict(slot.layers)
    name = slot.shaped_like(frame)
    try:
        return known[name].layers[fed[name]]
    except LookupError:
        raise RecipeError(
            f"A slot is fed by the layers {fed}, which its inputs do not have."
        ) from None
