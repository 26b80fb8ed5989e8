"""What the page shows of a job, as values that a template only has to lay out.

Names, labels and reasons come from strangers. They are shown, never obeyed: templates
escape them; here what looks like a secret is hidden, control characters are dropped and
lengths are bounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evomerge.api.plain import value_words
from evomerge.api.results.plot import Plot, plots
from evomerge.masking import masked_by_form
from evomerge.store.queue.values import Job, JobEvent, JobState

TRIALS_SHOWN = 50
FAULTS_SHOWN = 20
WORKERS_SHOWN = 50
EVENTS_SHOWN = 30
LOG_BYTES = 16 << 10

_LONGEST = 300
_PLAIN = (str, int, float, bool)

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Study:
    """What is recorded of a job's study, as ``--json`` prints it; empty at first.

    Attributes:
        status: Of the study; of one with stages, of the one that is searched.
        stages: Names and states of stages; none for a study without.
    """

    status: Row = field(default_factory=dict)
    stages: Sequence[Row] = ()
    front: Sequence[Row] = ()
    trials: Sequence[Row] = ()
    attempts: Sequence[Row] = ()


@dataclass(frozen=True, slots=True)
class Watched:
    """Everything that the page of one job shows.

    Attributes:
        log: The end of what its process wrote.
        before: Show trials before this number; None for the last ones.
    """

    job: Job
    study: Study
    events: Sequence[JobEvent] = ()
    log: str = ""
    before: int | None = None

    @property
    def progress(self) -> Progress:
        """How far the study is."""
        return progress(self.job, self.study.status, self.study.stages)

    @property
    def plots(self) -> tuple[Plot, ...]:
        """The live front."""
        return plots(self.study.trials, self.study.front)

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the objectives, as far as something was scored."""
        return tuple(self.study.front[0]["values"]) if self.study.front else ()

    @property
    def latest(self) -> Sequence[Row]:
        """The trials shown, newest first."""
        end = self.before
        chosen = [r for r in self.study.trials if end is None or r["number"] < end]
        return chosen[: -TRIALS_SHOWN - 1 : -1]

    @property
    def earlier(self) -> int | None:
        """Where the trials before those shown end; None if there are none."""
        shown = self.latest
        return shown[-1]["number"] if shown and shown[-1]["number"] > 0 else None

    @property
    def faults(self) -> Sequence[Row]:
        """Attempts that failed, newest first."""
        failed = [row for row in self.study.attempts if row["failure"]]
        failed.sort(key=lambda row: row["ended"] or "", reverse=True)
        return failed[:FAULTS_SHOWN]

    @property
    def crew(self) -> Sequence[Hand]:
        """Who worked for the study, the last first."""
        return crew(self.study.attempts)

    @property
    def news(self) -> Sequence[tuple[JobEvent, str]]:
        """Events with what they say, newest first."""
        latest = list(self.events)[: -EVENTS_SHOWN - 1 : -1]
        return [(event, words(event.data)) for event in latest]

    @property
    def actions(self) -> tuple[str, ...]:
        """What may be asked of it in its state."""
        return actions(self.job.state)


@dataclass(frozen=True, slots=True)
class Hand:
    """What a worker did for a study.

    Attributes:
        now: The trial it is at, None for none.
        heard: When its last attempt began or ended.
    """

    worker: str
    now: int | None
    attempts: int
    failed: int
    heard: str


def crew(attempts: Sequence[Row]) -> list[Hand]:
    """Return what each worker did; whoever was heard of last comes first."""
    of: dict[str, list[Row]] = {}
    for row in attempts:
        of.setdefault(row["worker"] or "", []).append(row)
    hands = [
        Hand(
            worker=worker,
            now=next((r["trial"] for r in rows if r["end"] == "running"), None),
            attempts=len(rows),
            failed=sum(row["failure"] is not None for row in rows),
            heard=max(row["ended"] or row["began"] or "" for row in rows),
        )
        for worker, rows in of.items()
        if worker
    ]
    hands.sort(key=lambda hand: (hand.now is not None, hand.heard), reverse=True)
    return hands[:WORKERS_SHOWN]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a study is.

    Attributes:
        trials: Candidates asked of the strategy.
        allowed: How many the budget allows, None for any number or if it is not known.
        best: Best value of each objective, in words.
    """

    trials: int
    allowed: int | None
    best: tuple[str, ...]


def progress(job: Job, status: Row, stages: Sequence[Row] = ()) -> Progress:
    """Tell how far a job's study is."""
    allowed = job.budget.get("trials")
    if stages:
        known = [row["allowed"] for row in stages]
        total = None if None in known else sum(known)
        return Progress(
            sum(row["trials"] for row in stages),
            total,
            best_of(next((row for row in reversed(stages) if row["best"]), {})),
        )
    found = allowed if allowed is not None else status.get("allowed")
    return Progress(
        status.get("trials", 0), None if found is None else int(found), best_of(status)
    )


def best_of(status: Row) -> tuple[str, ...]:
    """Say what the best trial of each objective reached."""
    return tuple(
        f"{shown(best['objective'])} {value_words(best)} (trial {best['trial']})"
        for best in status.get("best", ())
    )


def actions(state: JobState) -> tuple[str, ...]:
    """Return what a job's owner may ask of it in a state."""
    if state in (JobState.FINISHED, JobState.CANCELLING):
        return ()
    if state in (JobState.PAUSED, JobState.PAUSING):
        return ("resume", "cancel")
    if state in (JobState.FAILED, JobState.CANCELLED):
        return ("resume",)
    return ("pause", "cancel")


def words(data: Row) -> str:
    """Say in one line what an event holds."""
    told = (
        f"{key} {value}" for key, value in data.items() if isinstance(value, _PLAIN)
    )
    return shown("; ".join(told))


def shown(value: object, longest: int = _LONGEST) -> str:
    """Return a stranger's text on one line, without secrets, and not too long."""
    text = masked_by_form(str(value))
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def log_end(text: bytes) -> str:
    """Return the last whole lines of a log, without secrets and control characters."""
    kept = text[-LOG_BYTES:]
    if len(text) > LOG_BYTES:
        kept = kept.partition(b"\n")[2]
    lines = masked_by_form(kept.decode(errors="replace")).splitlines()
    return "\n".join("".join(c for c in line if c.isprintable()) for line in lines)
