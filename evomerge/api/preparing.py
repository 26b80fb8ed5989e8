"""Get a study ready to be searched: new from a file, or recorded before.

A study with stages is in the database as one study for each stage that has begun. A
stage begins when the one before it is finished; what it takes from earlier ones follows
from their recorded outcomes, and is recorded with it in one transaction. So whatever
stops a run, the next finds where to go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evomerge.api.resolving import (
    as_recorded,
    refuse_non_finite,
    refuse_other_configuration,
    resolve_file,
    restart,
)
from evomerge.api.results.reading import goals_of
from evomerge.api.running import Prepared, Where, ready
from evomerge.api.staged import found, refuse_other_kind, refuse_unclear_budget
from evomerge.api.warm import finder_in, said_of_starts
from evomerge.core.study import Budget
from evomerge.core.trial import Record
from evomerge.errors import StageError, StudyExistsError, StudyNotFoundError
from evomerge.logs import say
from evomerge.search.selection import best_by, front_first
from evomerge.specs.completing.stage import Stage, Take, Taken
from evomerge.specs.persistence import diff
from evomerge.specs.resolved import ResolvedStudy, meter_of
from evomerge.specs.studies.chain import Pending
from evomerge.specs.studies.restored import restore
from evomerge.specs.studies.study_file import Written
from evomerge.store.base import Store, StoredStudy
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store

_LEASE_S = 30.0


def prepare(study_file: Written, *, db: str, where: Where) -> Prepared:
    """Read a study, check it with its sources, and put it into the database.

    A study of this name that is there already with the same configuration is taken
    as it is, with the file's budget and workers. Of a study with stages, the first
    that is not finished.

    Raises:
        SpecError: Every mistake in the file and its sources.
        StudyExistsError: The name is taken by another configuration; the message
            lists the differences.
        StageError: A stage is finished and has nothing that the next could take.
        StoreError: The database cannot be used.
    """
    finder = finder_in(db)
    studies = resolve_file(study_file, where.cache_dir, finder)
    for study in studies:
        meter_of(study)
        say(said_of_starts(study, db))
    store = open_store(db)
    try:
        studies = as_recorded(studies, store, study_file, where.cache_dir, finder)
        made = ready(studies[0], db, where, {})
        refuse_other_kind(store, made.study)
        _put(store, made)
        return _onwards(store, made, anew=True)
    finally:
        store.close()


def take_up(
    name: str, *, db: str, where: Where, budget: Budget | None = None
) -> Prepared:
    """Rebuild a recorded study, to go on with it.

    Args:
        name: The study; or a stage of one, as ``study.stage``.
        db: Database URL.
        where: Where to run; what it leaves open is as in the run before.
        budget: Limits that change; those that are None stay as recorded.

    Returns:
        The study; of one with stages the first that is not finished, from the stage
        named, or else the last that has begun.

    Raises:
        StudyNotFoundError: There is no such study.
        SpecError: A source is gone or has changed.
        StageError: A stage is finished and has nothing that the next could take; or
            the budget is to change of a study with stages, or of a stage that others
            have built upon.
    """
    given = {k: v for k, v in asdict(budget or Budget()).items() if v is not None}
    store = open_store(db, create=False)
    try:
        stored = found(store, name)
        if given:
            refuse_unclear_budget(store, name, stored)
        made = _restored(stored, db, where, given)
        return _onwards(store, made)
    finally:
        store.close()


def following(prepared: Prepared) -> Prepared | None:
    """Return the stage after one that is finished, and begin it if need be.

    Returns:
        None if there is no further stage, or this one is not finished.

    Raises:
        StudyLockedError: Another process is at the finished stage.
        StudyExistsError: The next stage is there, with another configuration.
        StageError: There is nothing that the next stage could take.
        SpecError: A source is gone or has changed, or does not fit what is taken.
    """
    store = open_store(prepared.db, create=False)
    try:
        return _next(store, prepared)
    finally:
        store.close()


def refuse_other_stages(store: Store, first: ResolvedStudy, cache_dir: Path) -> None:
    """Compare the stages to come with those that have begun.

    Raises:
        StudyExistsError: One has another configuration.
    """
    study = first
    while (pending := Pending.after(study.allowance)) is not None:
        try:
            recorded = store.study(pending.name)
        except StudyNotFoundError:
            return
        if (taken := _known(store, recorded, pending)) is None:
            return
        study = pending.begin(taken, cache_dir=cache_dir)
        refuse_other_configuration(store, study)


def _restored(
    stored: StoredStudy, db: str, where: Where, budget: Mapping[str, Any]
) -> Prepared:
    allowance = dict(stored.allowance)
    allowance["budget"] = {**allowance["budget"], **budget}
    study = restore(stored.config, allowance, cache_dir=where.cache_dir)
    return ready(study, db, where, stored.allowance.get("placement", {}))


def _onwards(store: Store, made: Prepared, *, anew: bool = False) -> Prepared:
    """Skip stages that are finished."""
    while (after := _next(store, made, anew=anew)) is not None:
        made = after
    return made


def _next(store: Store, made: Prepared, *, anew: bool = False) -> Prepared | None:
    """Return the next stage, if this one is finished or the next has begun.

    Args:
        store: The database.
        made: The stage before.
        anew: One that has begun has the file's budget and workers, not its own.
    """
    pending = Pending.after(made.allowance)
    if pending is None:
        return None
    stored = store.study(made.name)
    try:
        recorded = store.study(pending.name)
    except StudyNotFoundError:
        recorded = None
    if recorded is None:
        return _begun(store, stored, made, pending) if _is_over(stored, made) else None
    if (taken := _known(store, recorded, pending)) is None:
        return _begun(store, stored, made, pending)
    if not anew:
        return _restored(recorded, made.db, made.where, {})
    study = pending.begin(taken, cache_dir=made.where.cache_dir)
    after = ready(study, made.db, made.where, {})
    _put(store, after)
    return after


def _is_over(stored: StoredStudy, made: Prepared) -> bool:
    budget = stored.allowance.get("budget")
    return stored.finished is not None and budget == made.allowance["budget"]


def _begun(
    store: Store, before: StoredStudy, made: Prepared, pending: Pending
) -> Prepared:
    """Pick what a stage takes, and record it."""
    # Nobody may go on with the stage before while its outcomes are looked through.
    lease = store.lease(before.id, this_process(), _LEASE_S)
    try:
        taken = _picked(store, pending.stage)
        study = pending.begin(taken, cache_dir=made.where.cache_dir)
        meter_of(study)
        after = ready(study, made.db, made.where, {})
        _put(store, after)
    finally:
        store.release(lease)
    return after


def _picked(store: Store, stage: Stage) -> dict[str, Taken]:
    """Return what a stage takes, by the name it has there.

    It follows from recorded outcomes of search items alone.

    Raises:
        StageError: There is no such candidate; the message says what to do.
    """
    out: dict[str, Taken] = {}
    for name, take in stage.take.items():
        origin = store.study(f"{stage.study}.{take.stage}")
        ranked = _ranked(store, origin, take)
        place = take.place or 0
        if place >= len(ranked):
            raise StageError(_lack(origin.name, stage, name, place, len(ranked)))
        trial = store.trial(origin.id, ranked[place].number)
        out[name] = Taken(trial.candidate.recipe, trial.number)
    return out


def _ranked(store: Store, origin: StoredStudy, take: Take) -> Sequence[Record]:
    objectives, constraints = goals_of(origin)
    records = store.history(origin.id)
    if take.place is not None:
        return front_first(objectives, records, constraints)
    named = {objective.name: objective for objective in objectives}
    objective = objectives[0] if take.best is None else named[take.best]
    best = best_by(objective, records, constraints)
    return () if best is None else (best,)


def _lack(study: str, stage: Stage, name: str, place: int, n: int) -> str:
    wanted = "a candidate" if place == 0 else f"{place + 1} different candidates"
    return (
        f"Stage {stage.name!r} takes {name!r} from {study!r}, which should have "
        f"{wanted} that is scored and keeps every constraint, but has {n}. Nothing is "
        f"lost: give that stage a larger budget (evomerge resume {study} --trials N), "
        "or begin a new study with looser constraints."
    )


def _known(
    store: Store, recorded: StoredStudy, pending: Pending
) -> Mapping[str, Taken] | None:
    """Return what a recorded stage took; None if it may still take something else.

    Raises:
        StudyExistsError: It is no stage of this study, or takes other candidates.
    """
    said = recorded.config.get("stage")
    stage = None if said is None else Stage.from_json(said)
    if stage is not None and stage.take == pending.stage.take:
        return stage.taken
    if stage is not None and store.tasks(recorded.id) is None:
        return None
    raise StudyExistsError(
        f"A study {recorded.name!r} is in this database that "
        + ("has no stages" if stage is None else "takes other candidates")
        + ". Delete it, or give this one another name."
    )


def _put(store: Store, made: Prepared) -> None:
    """Record a study, unless it is there."""
    study, cache_dir = made.study, made.where.cache_dir
    recorded = refuse_other_configuration(store, study)
    if recorded is None:
        refuse_non_finite(study, cache_dir)
        with suppress(StudyExistsError):
            store.create_study(study.name, study.config, made.allowance, study.seed)
            return
        # Another run was faster: this one is told so when it wants the lease.
        recorded = refuse_other_configuration(store, study)
    if recorded is not None and diff(recorded.config, study.config):
        refuse_non_finite(study, cache_dir)
        restart(store, recorded, study)
