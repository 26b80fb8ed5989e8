"""From values to HTML: templates that escape everything, and nothing left undefined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from evomerge.api.plain import value_words
from evomerge.api.results import plot
from evomerge.client.verbs import WorkerRow
from evomerge.service.page.view import Progress, Watched, best_of, shown, words
from evomerge.store.queue.values import Job


def shell() -> str:
    """Return the page around the parts: the same for everybody, without any data."""
    return _template("shell.html").render()


def studies_part(
    rows: Sequence[tuple[Job, Progress]], following: int | None = None
) -> str:
    """Return jobs at a glance.

    Args:
        rows: Jobs with how far they are.
        following: Number of the page with older ones, None if there is none.
    """
    return _template("studies.html").render(rows=rows, next=following)


def study_part(watched: Watched) -> str:
    """Return everything that is told of one job."""
    return _template("study.html").render(it=watched)


def workers_part(workers: Sequence[WorkerRow]) -> str:
    """Return the workers of the cluster."""
    return _template("workers.html").render(workers=workers)


def _template(name: str) -> Template:
    return _environment().get_template(name)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("evomerge.service.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "bests": lambda row: "; ".join(best_of(row)),
        "clock": lambda text: f"{shown(text, 40)[:19].replace('T', ' ')} UTC",
        "counted": lambda n, noun: f"{n} {noun}" if n == 1 else f"{n} {noun}s",
        "note": _note,
        "measured": _measured,
        "shown": shown,
        "told": words,
    }
    made.globals |= {
        "width": plot.WIDTH,
        "height": plot.HEIGHT,
        "left": plot.LEFT,
        "right": plot.RIGHT,
        "top": plot.TOP,
        "bottom": plot.BOTTOM,
    }
    return made


def _note(row: Mapping[str, Any]) -> str:
    said = (row["label"], row["failure"], "reused" if row["reused"] else None)
    return "; ".join(shown(word) for word in said if word)


def _measured(row: Mapping[str, Any], name: str) -> str:
    """Say a value with its error, and on how many of the items, if not on all."""
    value = row["values"].get(name)
    if not isinstance(value, int | float):
        return "–"
    error = row.get("errors", {}).get(name)
    # That they were selected on is said once, over the table.
    found = {**row, "value": value, "error": error, "is_selected": False}
    return value_words(found)
