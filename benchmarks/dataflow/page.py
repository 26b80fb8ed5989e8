"""The part of the page that is measured, written anew between two marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dataflow.plot import plot
from dataflow.search import Result
from dataflow.setting import Setting
from dataflow.summary import Mean, Row, rivals, rows

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def write(page: Path, settings: Sequence[Setting], results: Sequence[Result]) -> None:
    """Write tables into a page, and the plot beside it.

    Raises:
        ValueError: The page lacks the marks.
    """
    by_name = {s.name: [r for r in results if r.setting == s.name] for s in settings}
    found = [(setting, by_name[setting.name]) for setting in settings]
    found = [(setting, some) for setting, some in found if some]
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} lacks the marks {BEGIN} and {END}.")
    image = page.with_suffix(".svg")
    panels = {setting.title: rows(some) for setting, some in found}
    marks = {s.title: max(rivals(r).values(), default=0.0) for s, r in found}
    image.write_text(plot(panels, marks), encoding="utf-8")
    parts = [f"![Objective on held-out items]({image.name})"]
    parts += [_section(setting, some) for setting, some in found]
    body = "\n\n".join(parts)
    page.write_text(f"{before}{begin}\n\n{body}\n\n{end}{after}", encoding="utf-8")


def _section(setting: Setting, results: Sequence[Result]) -> str:
    summed = rows(results)
    tasks = sorted(setting.tasks)
    head = [
        "",
        "seeds",
        "held-out",
        "minus PS",
        "search",
        *tasks,
        "layers",
        "met again",
    ]
    table = [_cells(row, tasks) for row in summed]
    known = list(rivals(results).items())
    said = ", ".join(f"{label} {value:.3f}" for label, value in known[:6])
    trials = {r.trials for r in results}
    note = f"{'/'.join(map(str, sorted(trials)))} candidates a search."
    if said:
        note += f" Baselines on held-out items: {said}."
    return "\n\n".join([f"### {setting.title}", _table(head, table), note])


def _cells(row: Row, tasks: Sequence[str]) -> list[str]:
    return [
        row.variant,
        str(len(row.seeds)),
        _mean(row.sealed),
        "–" if row.against is None else _mean(row.against, sign="+"),
        _mean(row.search),
        *(_percent(row.means, task) for task in tasks),
        f"{row.layers:.1f}",
        f"{100 * row.repeated:.0f} %",
    ]


def _mean(mean: Mean, sign: str = "") -> str:
    text = f"{mean.value:{sign}.3f}"
    half = "" if mean.half is None else f" ± {mean.half:.3f}"
    return (text + half).replace("-", "−")


def _percent(means: Mapping[str, float], task: str) -> str:
    found = [v for name, v in means.items() if name.partition("/")[0] == task]
    return f"{100 * found[0]:.0f}" if found else "–"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    lines += ["| " + " | ".join(cells) + " |" for cells in body]
    return "\n".join(lines)
