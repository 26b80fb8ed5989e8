"""`evomerge status --follow`: how a study stands, how fast, and what is left."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import click

from evomerge.api.plain import value_words
from evomerge.cli.verbs.meant import FOLLOWING_S, clean, hush, remote, understood
from evomerge.steps import Clock, clock_words, step

PAUSE_S = 2.0
"""Between two looks, or more where looking takes long."""
PATIENCE_S = 6.0
"""How long a search that was seen may be away: stages and restarts follow soon."""
_LONGEST_PAUSE_S = 10.0
_WINDOW = 200
_ENDED = ("scored", "failed", "quarantined")
_UNSURE = {"used", "seconds"}

_Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Look:
    """How a study stands, as `status --json` says it.

    Attributes:
        found: A study, or the stages of one; None before it has begun.
        state: Of its job, on a cluster, or of the study.
        is_over: Nothing more comes of it.
        is_away: Nobody is at it, but somebody may be soon.
    """

    found: Any
    state: str
    is_over: bool
    is_away: bool = False


class Pace:
    """How fast trials end, by those whose end was seen."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._ends: deque[tuple[float, int]] = deque(maxlen=_WINDOW)

    def of(self, found: Any) -> _Row:
        """Return trials done and allowed, trials an hour, and the seconds left.

        What is not known is None. Counted are candidates; generation 0 is free.
        """
        rows = found if isinstance(found, list) else [found]
        counts = [_counted(row) for row in rows]
        ended, done, asked = (sum(column) for column in zip(*counts, strict=True))
        limits = [row["allowed"] for row in rows]
        allowed = None if None in limits else sum(limits)
        if not self._ends or self._ends[-1][1] != ended:
            self._ends.append((self._clock(), ended))
        speed = self._speed() or _overall(rows)
        left = None
        if speed and allowed is not None:
            unfinished = sum(_unfinished(row) for row in rows)
            wait = self._clock() - self._ends[-1][0]
            n_left = max(0, allowed - asked) + unfinished
            left = max(0.0, n_left / speed - wait) if n_left else 0.0
        return {
            "done": done,
            "allowed": allowed,
            "trials_per_hour": None if speed is None else 3600 * speed,
            "left_s": left,
        }

    def _speed(self) -> float | None:
        (began, first), (now, last) = self._ends[0], self._ends[-1]
        return (last - first) / (now - began) if last > first else None


def _counted(row: _Row) -> tuple[int, int, int]:
    """Return trials that ended, candidates that did, and candidates asked."""
    asked = row["trials"]
    if "counts" not in row:  # a stage tells no more
        return asked, asked, asked
    ended = sum(row["counts"][state] for state in _ENDED)
    return ended, max(0, min(ended, asked - _unfinished(row))), asked


def _unfinished(row: _Row) -> int:
    counts = row.get("counts", {})
    return sum(counts.get(state, 0) for state in ("pending", "running"))


def _overall(rows: list[_Row]) -> float | None:
    seconds = sum(row.get("seconds", 0.0) for row in rows)
    return sum(row["trials"] for row in rows) / seconds or None if seconds else None


def follow(
    name: str, look: Callable[[], Look], *, as_json: bool, pause_s: float = PAUSE_S
) -> Any:
    """Tell how a study stands until nothing more comes of it, and return the last.

    Args:
        name: Of the study.
        look: Says how it stands.
        as_json: Print a line of JSON for each change instead of one for people.
        pause_s: Between two looks.
    """
    pace, last, mark = Pace(), None, ""
    with step(f"following {name}") as now:
        for seen in _looks(look, pause_s):
            hush()
            if seen.found is None:
                now.say(f"{name} is {clean(seen.state)}", seen.state)
                continue
            last = seen.found
            at = understood(pace.of, last)
            if as_json:
                mark = _print_change(name, last, at, mark)
            else:
                text = understood(lambda _: described(name, seen, at), last)  # noqa: B023
                now.say(text, (at["done"], seen.state))
    if last is None:
        state = {"name": name, "state": clean(seen.state)}
        click.echo(json.dumps(state) if as_json else f"{name} is {state['state']}.")
    return last


def _looks(look: Callable[[], Look], pause_s: float) -> Iterator[Look]:
    away_since: float | None = None
    was_seen = False
    while True:
        began = time.monotonic()
        seen = look()
        yield seen
        ended = time.monotonic()
        was_seen = was_seen or not seen.is_away
        away_since = (away_since or ended) if seen.is_away else None
        is_gone = away_since is not None and ended - away_since > PATIENCE_S
        if seen.is_over or is_gone or (seen.is_away and not was_seen):
            return
        time.sleep(max(pause_s, min(ended - began, _LONGEST_PAUSE_S)))


def _print_change(name: str, found: Any, at: _Row, before: str) -> str:
    """Print a line if anything but the time has changed; return what it told."""
    whole = {"stages": found} if isinstance(found, list) else found
    mark = json.dumps(
        {key: whole[key] for key in whole.keys() - _UNSURE}, sort_keys=True
    )
    if mark != before:
        click.echo(json.dumps({"name": name, **whole, **at}, ensure_ascii=False))
    return mark


def described(name: str, seen: Look, at: _Row) -> str:
    """Put into one line how a study stands."""
    rows = seen.found if isinstance(seen.found, list) else [seen.found]
    row = next((row for row in rows if _is_searched(row)), rows[-1])
    failed = sum(row.get("counts", {}).get(state, 0) for state in _ENDED[1:])
    workers = row.get("workers")
    of = "" if at["allowed"] is None else f" of {at['allowed']}"
    speed = at["trials_per_hour"]
    parts = [
        clean(str(row.get("name", name))),
        f"{at['done']}{of} trials",
        f"{failed} failed" if failed else "",
        ", ".join(f"best {_led(one)}" for one in row["best"]),
        f"leads in {_led(leader)}" if (leader := row.get("leader")) else "",
        "" if speed is None else f"{speed:.0f} trials/h",
        f"workers: {clean(workers)}" if workers else "",
        "" if at["left_s"] is None else f"{clock_words(at['left_s'])} left",
        "" if _is_searched(row) else clean(seen.state),
    ]
    return " | ".join(part for part in parts if part)


def _led(one: _Row) -> str:
    words = f"{clean(one['objective'])} {value_words(one)}"
    return f"{words} (trial {one['trial']})"


def _is_searched(row: _Row) -> bool:
    return str(row["state"]).startswith("searching")


def local_look(found: Any) -> Look:
    """Judge how a study of a database stands."""
    rows = found if isinstance(found, list) else [found]
    if any(map(_is_searched, rows)):
        return Look(found, "searching", is_over=False)
    waits = any(row["state"] in ("stopped", "waiting") for row in rows)
    state = next(
        (r["state"] for r in rows if r["state"] == "stopped"), rows[-1]["state"]
    )
    return Look(found, str(state), is_over=not waits, is_away=waits)


def follow_remote(name: str, cluster: str, *, as_json: bool) -> Any:
    """Follow a job of a cluster; returns how its study stood last."""
    from evomerge.errors import StudyNotFoundError

    with remote(cluster, FOLLOWING_S) as asked:

        def look() -> Look:
            job = asked.job(name)
            try:
                found = asked.status(name)
            except StudyNotFoundError:
                found = None
            is_over = job.state.is_final or job.state == "paused"
            return Look(found, str(job.state), is_over)

        return follow(name, look, as_json=as_json)
