"""What a database holds of a study, compared with what it should hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.core.scoring_protocol import Outcome
from evomerge.core.trial import Candidate, Trial
from evomerge.errors import StoreError, StudyNotFoundError
from evomerge.store.base import Store
from evomerge.store.sql import open_store


@dataclass(frozen=True, slots=True)
class Contents:
    """What of a study must not depend on what happened on the way.

    Attributes:
        candidates: By trial number.
        ends: Of the trials that have ended: state, scores, cause and blame, faults.
        memory: What the strategy decided, by generation.
        outcomes: (recipe, task, item) to its outcome, of every trial.
        attempts: Every (trial, attempt).
        items: What the study was charged.
        faults: What the audit found.
    """

    candidates: Mapping[int, Candidate]
    ends: Mapping[int, tuple[Any, ...]]
    memory: Mapping[int, Any]
    outcomes: Mapping[tuple[str, str, str], Outcome]
    attempts: frozenset[tuple[int, int]]
    items: int
    faults: tuple[str, ...]


NOTHING = Contents({}, {}, {}, {}, frozenset(), 0, ())


def contents(url: str, name: str = "small") -> Contents:
    """Read a study, and audit its database; a database not made yet holds nothing."""
    try:
        store = open_store(url, create=False)
    except StoreError:
        return NOTHING
    try:
        return _read(store, name)
    except StudyNotFoundError:
        return NOTHING
    finally:
        store.close()


def _read(store: Store, name: str) -> Contents:
    study = store.study(name)
    trials = store.trials(study.id)
    outcomes = {
        (digest, task.manifest.task, item): outcome
        for digest in {trial.candidate.recipe.digest for trial in trials}
        for task in store.tasks(study.id) or ()
        for item, outcome in store.outcomes(digest, task.protocol.digest).items()
    }
    return Contents(
        candidates={trial.number: trial.candidate for trial in trials},
        ends={t.number: _end(t) for t in trials if t.state.is_final},
        memory={
            g.number: (g.memory, g.note, g.sample) for g in store.generations(study.id)
        },
        outcomes=outcomes,
        attempts=frozenset((a.trial, a.attempt) for a in store.attempts(study.id)),
        items=store.usage(study.id).items,
        faults=tuple(f"{fault.where}: {fault.what}" for fault in store.check()),
    )


def _end(trial: Trial) -> tuple[Any, ...]:
    failure = trial.failure
    why = None if failure is None else (failure.cause, failure.blame)
    return trial.state, trial.scores, why, trial.faults if failure else 0


def broken_promises(found: Contents, promised: Path) -> list[str]:
    """Return what a store promised to keep, and what is not there."""
    if not promised.exists():
        return []
    lines = promised.read_text().splitlines()
    return [line for line in lines if not _is_kept(found, json.loads(line))]


def _is_kept(found: Contents, promise: Sequence[Any]) -> bool:
    kind: str = promise[0]
    number: int = promise[1]
    facts = promise[2:]
    if kind == "trials":
        return number < len(found.candidates)
    if kind == "attempt":
        return (number, *facts) in found.attempts
    if kind == "end":
        return bool(found.ends.get(number, (None,))[0] == facts[0])
    if number not in found.candidates:
        return False
    task, items = facts
    digest = found.candidates[number].recipe.digest
    return all((digest, task, item) in found.outcomes for item in items)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a disturbed study differs from the calm one.

    Attributes:
        lost: What had been promised, or should be there in the end, and is not.
        doubled: What is there or was charged beyond the calm study.
        different: What is there, but otherwise.
        faults: What the audit found.
    """

    lost: tuple[str, ...]
    doubled: tuple[str, ...]
    different: tuple[str, ...]
    faults: tuple[str, ...]


def verdict(calm: Contents, found: Contents, promised: Path, *, over: bool) -> Verdict:
    """Compare a study with the calm one, of which it is a part until it is over."""
    lost = broken_promises(found, promised)
    doubled, different = [], []
    for part in ("candidates", "ends", "memory", "outcomes"):
        expected, there = getattr(calm, part), getattr(found, part)
        doubled += [f"{part} {key}" for key in there if key not in expected]
        different += [
            f"{part} {key}: {value}, not {expected[key]}"
            for key, value in there.items()
            if key in expected and expected[key] != value
        ]
        if over:
            lost += [f"{part} {key}" for key in expected if key not in there]
    if found.items > calm.items:
        doubled.append(f"{found.items} items charged, not {calm.items}")
    if over and found.items < calm.items:
        lost.append(f"{calm.items - found.items} items charged")
    return Verdict(tuple(lost), tuple(doubled), tuple(different), found.faults)
