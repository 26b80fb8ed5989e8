"""What was promised, held against what is there: nothing lost, doubled or run twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psycopg
from faults.stage import Stage
from support.contents import contents, verdict
from support.study_files import write_study

from evomerge import api
from evomerge.store.queue.job_queue import open_queue

_TWICE = """
SELECT s.name, a.trial FROM em_attempt a JOIN em_study s ON s.id = a.study_id
WHERE a.end = 'scored' GROUP BY s.name, a.trial HAVING count(*) > 1
"""
_POISON = """
SELECT (SELECT min(b.began) FROM em_attempt b
        WHERE b.study_id = a.study_id AND b.began >= a.ended) - a.ended
FROM em_attempt a WHERE a.end IN ('fault', 'failed')
AND a.cause IN ('non_finite', 'evaluation', 'engine')
"""
_FREED = ("ended", "supervisor_lost", "released", "submitted", "resumed")


@dataclass(frozen=True)
class Audit:
    """What an audit found; everything but the counts must be empty.

    Attributes:
        poison_s: Seconds from the end of an attempt that its candidate (or a machine on
            account of it) spoilt to the study's next attempt.
    """

    jobs: int
    trials: int
    items: int
    attempts: int
    lost: tuple[str, ...]
    doubled: tuple[str, ...]
    different: tuple[str, ...]
    twice: tuple[str, ...]
    broken: tuple[str, ...]
    poison_s: tuple[float, ...]


def audit(stage: Stage) -> Audit:
    """Compare every study with an undisturbed one, and look through the event logs."""
    lost, doubled, different, broken = [], [], [], set[str]()
    trials = items = attempts = 0
    names = []
    for standing in stage.standings():
        names.append((standing.user, standing.name))
        if standing.state != "finished":
            said = stage.log_of(standing)[-2000:]
            lost.append(f"{standing.name} is {standing.state}: {standing.why}; {said}")
            continue
        calm = _calm(stage, standing.name)
        found = contents(stage.url, standing.name)
        seen = verdict(calm, found, Path("nothing-promised"), over=True)
        lost += [f"{standing.name}: {what}" for what in seen.lost]
        doubled += [f"{standing.name}: {what}" for what in seen.doubled]
        different += [f"{standing.name}: {what}" for what in seen.different]
        broken |= {*seen.faults}
        trials += len(found.candidates)
        items += found.items
        attempts += len(found.attempts)
    with psycopg.connect(stage.url) as connection:
        scored = connection.execute(_TWICE).fetchall()
        waits = [row[0] for row in connection.execute(_POISON) if row[0] is not None]
    twice = [f"{name}: trial {number} was scored twice" for name, number in scored]
    return Audit(
        len(names),
        trials,
        items,
        attempts,
        tuple(lost),
        tuple(doubled),
        tuple(different),
        (*twice, *_twice_claimed(stage.url, names)),
        tuple(broken),
        tuple(waits),
    )


def _calm(stage: Stage, name: str) -> object:
    folder = stage.folder / "calm" / name
    folder.mkdir(parents=True)
    file = write_study(folder / "study.yaml", stage.study(name, 0.0))
    url = f"sqlite:///{folder}/calm.db"
    where = api.Where(None, None, True, folder / "cache")
    api.search(api.prepare(file, db=url, where=where))
    return contents(url, name)


def _twice_claimed(url: str, names: list[tuple[str, str]]) -> Iterator[str]:
    """Find jobs that were claimed while another supervisor had them, or ended twice."""
    queue = open_queue(url)
    try:
        for user, name in names:
            events = queue.events(user, name)
            for before, now in pairwise(events):
                if now.kind == "claimed" and before.kind not in _FREED:
                    yield f"{name}: claimed after {before.kind!r}"
            ends = [e for e in events if e.data.get("state") == "finished"]
            if len(ends) > 1:
                yield f"{name}: finished {len(ends)} times"
    finally:
        queue.close()
