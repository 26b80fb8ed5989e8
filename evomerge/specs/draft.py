"""The text of a first study file, with comments, from what is known of its parts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

_PLAIN = re.compile(r"(?:[A-Za-z]|\.{0,2}/|~/)[A-Za-z0-9_./+@-]*")
_WORDS = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")
"""What YAML reads as something else than text."""
_AXES = 24
"""About as many weights as a search of some hundred candidates can learn."""
_MOST_GROUPS = 12

_WHY = {
    "cma": "CMA-ES: the first choice for weights and one objective",
    "nsga2": "a population for several objectives, on any space",
    "nsga3": "a population for three objectives and more",
    "climb": "edits of one parent: the first choice for stacks and one objective",
    "grid": "every block once",
}


@dataclass(frozen=True, slots=True)
class DraftTask:
    """A task of a first study.

    Attributes:
        name: What the study calls it.
        task: Its name in lm-eval, or ``simulated``.
        metric: What is improved.
        include: Folder of its file, as the study writes it; None for lm-eval's own.
    """

    name: str
    task: str
    metric: str
    include: str | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """What a first study is made of.

    Attributes:
        sources: Name to folder or hub id, as the study writes them.
        base: The source that the others began from, if any.
        n_layers: Layers of the base, or of the first source; None if not known.
        same_depth: All have as many layers, so that they can be merged.
        tasks: What candidates are tested on, each an objective of its own.
        engine: Its kind.
        trials: Candidates to try.
        vocabulary: Tokenizers differ: the merge has those of the base.
        allow: Kinds of differences that are merged all the same.
    """

    sources: Mapping[str, str]
    base: str | None
    n_layers: int | None
    same_depth: bool
    tasks: tuple[DraftTask, ...]
    engine: str
    trials: int
    vocabulary: bool = False
    allow: tuple[str, ...] = ()

    @property
    def is_stack(self) -> bool:
        """Layers are put together as they stand, and no weights are merged."""
        return len(self.sources) == 1 or not self.same_depth

    @property
    def strategy(self) -> str:
        """Who proposes candidates."""
        if len(self.sources) == 1:
            return "grid"
        if len(self.tasks) == 1:
            return "climb" if self.is_stack else "cma"
        return "nsga2" if len(self.tasks) == 2 or self.is_stack else "nsga3"


def draft_text(draft: Draft) -> str:
    """Write the study file."""
    parts = (_sources, _space, _tasks, _goals, _search)
    return "\n".join(line for part in parts for line in part(draft)) + "\n"


def _sources(draft: Draft) -> Iterator[str]:
    yield "# docs/study-files.md explains every key; `evomerge check` finds mistakes."
    yield "sources:"
    for name, written in draft.sources.items():
        yield f"  {_text(name)}: {_text(written)}"
    if draft.vocabulary:
        yield "vocabulary: base # their tokenizers differ: the merge has the base's"
    if draft.allow:
        kinds = ", ".join(draft.allow)
        yield f"allow: [{kinds}] # they differ in this; the merge has what its base has"
    yield ""


def _space(draft: Draft) -> Iterator[str]:
    yield "# What is merged, and which choices are open."
    yield "space:"
    names = list(draft.sources)
    if len(names) == 1:
        yield "  flow: # one block of neighbouring layers runs again"
        yield "    kind: block"
        yield f"    sources: {_texts(names)}"
    elif draft.is_stack:
        yield "  flow: # they differ in depth: which layers of which model run"
        yield "    kind: gates"
        yield f"    sources: {_texts(names)}"
    else:
        yield from _merge(draft)
    yield ""


def _merge(draft: Draft) -> Iterator[str]:
    experts = [name for name in draft.sources if name != draft.base]
    if draft.base is None:
        yield "  operator: linear # a weighted average; with a base, task_arithmetic"
        weight = "low: 0.05, high: 1.0"
    else:
        yield "  operator: task_arithmetic # or ties, dare_ties, ...: docs/methods.md"
        yield f"  base: {_text(draft.base)}"
        weight = "low: 0.0, high: 1.5"
    yield f"  experts: {_texts(experts)}"
    yield "  knobs:"
    by, why = "", "one for each expert, the same in all layers"
    if draft.n_layers:
        groups = min(_MOST_GROUPS, max(1, _AXES // len(experts)), draft.n_layers)
        size = -(-draft.n_layers // groups)
        by, why = f", by: {{groups: {size}}}", f"{size} layers share one"
    yield f"    weight: {{{weight}{by}}} # {why}"


def _tasks(draft: Draft) -> Iterator[str]:
    yield "# What candidates are tested on. Half of each task's items are searched on,"
    yield "# and half are held out for the report."
    yield "tasks:"
    for task in draft.tasks:
        yield f"  {_text(task.name)}:"
        if task.task != task.name:
            yield f"    task: {_text(task.task)}"
        if task.include is not None:
            yield f"    include: {_text(task.include)}"
        yield f"    metric: {_text(task.metric)}"
        yield "    limit: 800 # items used; more can show smaller differences"
    yield ""


def _goals(draft: Draft) -> Iterator[str]:
    yield "objectives: # which way is better, a task says itself"
    for task in draft.tasks:
        name = _text(task.name)
        yield f"  - {{name: {name}, measure: {name}}}"
    first = _text(draft.tasks[0].name)
    yardstick = _text(draft.base or next(iter(draft.sources)))
    yield "# constraints: # bounds that every result must keep"
    yield f"#   - {{measure: {first}, drop_at_most: 0.01, relative_to: {yardstick}}}"
    yield ""


def _search(draft: Draft) -> Iterator[str]:
    kind = draft.strategy
    yield f"strategy: {{kind: {kind}}} # {_WHY[kind]}"
    yield f"engine: {{kind: {draft.engine}}} # vllm, hf (transformers), or simulated"
    yield "workers: auto # one for each GPU"
    yield f"budget: {{trials: {draft.trials}}} # or items, minutes, hours"


def _text(value: str) -> str:
    is_plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS
    return value if is_plain else json.dumps(value, ensure_ascii=False)


def _texts(values: Iterable[str]) -> str:
    return f"[{', '.join(map(_text, values))}]"
