"""The model card: what was merged, what it is worth, and how sure that is.

A plain function from facts to Markdown in Hugging Face's form. The same facts give the
same text; nothing is looked up and no clock is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evomerge.core.flow.size import SpaceSize
from evomerge.core.recipes.recipe import STORED, Recipe
from evomerge.core.trial import Repeats
from evomerge.export.bounds import HeldBound, bounds_section
from evomerge.export.markup import file_name, interval, markdown, number, p_value, table
from evomerge.export.parents import (
    Parent,
    Standing,
    front_matter,
    licences,
    parents_table,
)
from evomerge.export.report import BaselineTable, Row
from evomerge.export.stats import Verdict
from evomerge.export.tables import CostRow, Tensors, cost_table, recipe_table
from evomerge.store.base import Usage

_LARGEST_RECIPE = 60_000  # characters; beyond, the card points to recipe.json
_FEW = 10  # candidates that are named


@dataclass(frozen=True, slots=True)
class Search:
    """Where the recipe came from.

    Attributes:
        study: The study's name.
        trial: The trial's number.
        used: What the whole search cost.
        selected: Objective to the trial's value on the items it was selected on.
        alike: Objective to the other candidates that the search's items do not tell
            from this one, by number.
        openings: How often the held-out items were scored, this time included.
        strategy: Who proposed the candidates.
        size: Of the space, if it is known.
        repeats: How often the strategy proposed a merge again, if it is known.
    """

    study: str
    trial: int
    used: Usage
    selected: Mapping[str, float]
    openings: int
    strategy: str | None = None
    size: SpaceSize | None = None
    repeats: Repeats | None = None
    alike: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CardFacts:
    """All a card says.

    Attributes:
        name: What the model is called.
        parents: What the recipe reads, in the recipe's order of inputs.
        tables: One for each objective; empty if no held-out item was scored.
        search: None for a recipe that no search found.
        versions: Program or library to its version.
        costs: Those of this model, then of the baselines; empty if they are not known.
        bounds: The study's constraints, tested.
        standing: What it was before the search, if no candidate of the search.
        tensors: Tensors of every place; empty if they are not known.
        allow: Kinds of differences between the parents that were allowed.
    """

    name: str
    recipe: Recipe
    parents: tuple[Parent, ...]
    tables: tuple[BaselineTable, ...] = ()
    search: Search | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    costs: tuple[CostRow, ...] = ()
    bounds: tuple[HeldBound, ...] = ()
    standing: Standing | None = None
    tensors: Tensors = field(default_factory=dict)
    allow: tuple[str, ...] = ()


def card(facts: CardFacts, *, sees: bool = False) -> str:
    """Write the card; ``sees``: of a model that takes images, with its processor."""
    parts = [front_matter(facts.parents, facts.standing, sees=sees), _title(facts)]
    parts += [_opening(facts), "## Parents", parents_table(facts.parents)]
    parts += [licences(facts.parents), "## Is it better?", *_worth(facts)]
    if facts.bounds:
        parts += ["## Does it keep its bounds?", *bounds_section(facts.bounds)]
    if facts.costs:
        parts += ["## What it costs to run", cost_table(facts.costs)]
    parts += ["## Recipe", *_recipe(facts)]
    if facts.search is not None:
        parts += ["## What the search cost", _cost(facts.search)]
    if facts.versions:
        rows = [(markdown(k), markdown(v)) for k, v in sorted(facts.versions.items())]
        parts += ["## Made with", table(("program", "version"), rows)]
    parts += ["## Use", usage(facts.name, sees=sees)]
    return "\n\n".join(parts) + "\n"


def _title(facts: CardFacts) -> str:
    if facts.standing is None:
        return f"# {markdown(facts.name)}"
    kind, label = facts.standing.kind, markdown(facts.standing.label)
    said = f"the parent {label}, unchanged" if kind == "parent" else f"{kind} {label}"
    return f"# {markdown(facts.name)}: {said}"


def _opening(facts: CardFacts) -> str:
    names = [f"**{markdown(parent.name)}**" for parent in facts.parents]
    listed = ", ".join(names[:-1]) + " and " + names[-1] if names[1:] else names[0]
    text = f"A merge of {listed}, without further training"
    if facts.search is None:
        return text + ", made from a recipe."
    whose = f"trial {facts.search.trial} of study {markdown(facts.search.study)}"
    if facts.standing is not None:
        said = facts.standing.said(f"**{markdown(facts.standing.label)}**")
        text = "" if facts.standing.kind == "parent" else f"{text}. "
        return f"{text}This is {whose}: {said}."
    return f"{text}. evomerge found the recipe by searching: it is {whose}."


def _worth(facts: CardFacts) -> list[str]:
    parts: list[str] = []
    if not facts.tables:
        if facts.search is None:
            return ["Unknown: nothing was scored."]
        parts.append(
            "Unknown: this model was not scored on items that the search had not seen."
        )
        return parts + _selected_only(facts.search)
    for one in facts.tables:
        parts += _objective(one, facts.search)
    parts.append(
        "Differences are paired over items. Intervals hold with 95 % confidence, also "
        "where several tasks are about equally bad. p comes from swapping the two "
        "models' answers item by item, corrected by Holm's method for all comparisons "
        "made here and at earlier openings of the held-out items; one with ≤ is the "
        "smallest that the test can give. A gain or loss is claimed only where p is "
        "below 0.05 and the interval leaves out 0."
    )
    if facts.search is not None:
        times = (
            "once" if facts.search.openings == 1 else f"{facts.search.openings} times"
        )
        parts.append(
            f"The held-out items of this study have been opened {times}, this one "
            "included; every further opening makes them worth a little less."
        )
    return parts


def _selected_only(search: Search) -> list[str]:
    rows = [(markdown(k), number(v)) for k, v in search.selected.items()]
    return [
        "On the items it was selected on, which flatter what was selected:",
        table(("objective", "value (selected on)"), rows, is_numeric=True),
    ]


def _objective(judged: BaselineTable, search: Search | None) -> list[str]:
    objective = judged.objective
    parts = [f"### {markdown(objective.name)} ({objective.direction.words})"]
    parts.append(
        f"On {judged.n_items} held-out items that the search never saw"
        f"{_made_of(judged)}:"
    )
    head = (
        "model",
        "held-out items",
        "this model minus it",
        "p (Holm)",
        "verdict",
        "truncated",
    )
    parts.append(table(head, [_baseline(row) for row in judged.rows], is_numeric=True))
    if search is not None and objective.name in search.selected:
        parts.append(
            f"On the items it was **selected on** it reached "
            f"{number(search.selected[objective.name])}; that number is flattered by "
            "the selection and is no evidence."
        )
        if judged.gap is not None:
            parts.append(
                "The winner's gap, its value there minus that on held-out items, less "
                "the mean of the same over the models it is compared with, is "
                f"{number(judged.gap, sign=True)}."
            )
        if others := search.alike.get(objective.name, ()):
            parts.append(_alike(others))
    if len(objective.measures) > 1:
        names = [str(measure) for measure in objective.measures]
        rows = [
            (markdown(row.label), *(interval(row.means[n]) for n in names))
            for row in judged.rows
        ]
        columns = ("model", *(markdown(name) for name in names))
        parts.append(table(columns, rows, is_numeric=True))
    parts += _truncation(judged)
    return parts


def _alike(others: Sequence[int]) -> str:
    few = ", ".join(map(str, others[:_FEW]))
    more = f" and {len(others) - _FEW} more" if len(others) > _FEW else ""
    return (
        "The search's items do not tell it from "
        f"{'trial' if len(others) == 1 else 'trials'} {few}{more}."
    )


def _made_of(judged: BaselineTable) -> str:
    objective = judged.objective
    if len(objective.measures) == 1 and not objective.worst:
        return f" ({markdown(str(objective.measures[0]))})"
    even = len(set(objective.weights)) == 1
    text = f"the {'mean' if even else 'weighted mean'} of {len(objective.measures)}"
    if objective.worst:
        text += f" measures plus {number(objective.worst)} times the worst of them"
    else:
        text += " measures"
    return f" ({text})"


def _baseline(row: Row) -> tuple[str, ...]:
    shares = f"{100 * row.truncated.value:.1f} %"
    if row.against is None:
        label = f"**{markdown(row.label)}** (this model)"
        return (label, f"**{interval(row.value)}**", "", "", "", shares)
    against = row.against
    said = against.verdict.value
    return (
        markdown(row.label),
        interval(row.value),
        interval(against.difference, sign=True),
        p_value(against.adjusted, against.p_value),
        said if against.verdict is Verdict.NONE else f"**{said}**",
        shares,
    )


def _truncation(judged: BaselineTable) -> list[str]:
    """Warn where answers are cut off more often than any baseline's."""
    mine = judged.chosen.truncated
    others = [row.truncated for row in judged.rows[1:]]
    if not others or mine.low <= max(other.high for other in others):
        return []
    return [
        f"Careful: {100 * mine.value:.1f} % of this model's answers ran into the token "
        f"limit, at most {100 * max(o.value for o in others):.1f} % of any rival's."
    ]


def _types(dtype: str) -> str:
    """Say in which element types weights are written."""
    return "each in the element type of its inputs" if dtype == STORED else dtype


def _recipe(facts: CardFacts) -> list[str]:
    recipe = facts.recipe
    parts = [
        f"Weights are {_types(recipe.dtype)}; configuration and tokenizer are those of "
        f"{markdown(recipe.frame)}. Digest of the recipe: `{recipe.digest}`.",
        recipe_table(recipe, facts.tensors),
    ]
    if facts.allow:
        parts.append(
            "Its parents do not compute the same with equal weights; these differences "
            f"were allowed: {', '.join(facts.allow)}. The model has what "
            f"{markdown(recipe.frame)} has."
        )
    text = json.dumps(recipe.to_json(), indent=1, ensure_ascii=True)
    if len(text) > _LARGEST_RECIPE:
        return [*parts, "`recipe.json` holds the whole recipe."]
    whole = f"```json\n{text}\n```"
    summary = "<details><summary>The recipe as JSON (also in recipe.json)</summary>"
    return [*parts, summary, whole, "</details>"]


def _cost(search: Search) -> str:
    used = search.used
    parts = [
        f"{used.trials} candidates, {used.items} scored items and {used.seconds:.0f} "
        "seconds of wall time, over all runs of the study; baselines not counted."
    ]
    if search.size is not None:
        parts.append(f"The space has {search.size}.")
    if search.repeats is not None:
        parts.append(
            f"Candidates that {markdown(search.strategy or 'the search')} proposed "
            f"again: {search.repeats}."
        )
    return " ".join(parts)


def usage(model: str, *, sees: bool = False) -> str:
    """Return how a model folder is loaded; ``sees`` as for ``card``."""
    name = json.dumps(file_name(model))
    loader, reader = "AutoModelForCausalLM", "AutoTokenizer"
    if sees:
        loader, reader = "AutoModelForImageTextToText", "AutoProcessor"
    return (
        "```python\n"
        f"from transformers import {loader}, {reader}\n\n"
        f"model = {loader}.from_pretrained({name})\n"
        f"{reader.removeprefix('Auto').lower()} = {reader}.from_pretrained({name})\n"
        "```"
    )
