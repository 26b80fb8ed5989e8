"""optuna-dashboard on studies of ours: it shows them, and can change nothing.

Three walls: requests that are not for reading are refused before optuna-dashboard sees
them, the storage it is given refuses every write, and all that is asked of the
database are reads.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from socketserver import ThreadingMixIn
from typing import Any, NoReturn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from optuna_dashboard import wsgi

from evomerge.api.results.reading import goals_of
from evomerge.api.staged import every_part
from evomerge.core import trial as core
from evomerge.core.study import Constraint, Objective
from evomerge.errors import SetupError
from evomerge.masking import masked_by_form
from evomerge.store.base import Store, StoredStudy
from evomerge.store.sql import open_store

_STATES = {
    core.TrialState.PENDING: TrialState.WAITING,
    core.TrialState.RUNNING: TrialState.RUNNING,
    core.TrialState.SCORED: TrialState.COMPLETE,
    core.TrialState.FAILED: TrialState.FAIL,
    core.TrialState.QUARANTINED: TrialState.FAIL,
}
_MOST_TRIALS = 1 << 24  # of a study: a trial's id is its study's and its number
_READING = ("GET", "HEAD")

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]


class ReadOnlyError(RuntimeError):
    """Something was to be changed that can only be looked at."""


class ReadOnlyStorage(BaseStorage):  # type: ignore[misc]
    """Studies of ours as Optuna has them; every write raises ``ReadOnlyError``.

    Args:
        store: An open one; asked by one thread at a time.
        name: Of the study; of one with stages, all that have begun are shown.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self._lock = threading.Lock()

    # What is read.

    def get_all_studies(self) -> list[FrozenStudy]:
        """Return the study, or its stages."""
        return [_frozen(stored) for stored in self._parts()]

    def get_study_id_from_name(self, study_name: str) -> int:
        """Return a study's id; KeyError if there is none."""
        for stored in self._parts():
            if stored.name == study_name:
                return stored.id
        return _missing(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        """Return a study's name; KeyError if there is none."""
        return self._part(study_id).name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Return which way each objective is better."""
        return _directions(goals_of(self._part(study_id))[0])

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Return what is told of a study."""
        found: dict[str, Any] = _frozen(self._part(study_id)).user_attrs
        return found

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Return what Optuna wants to know of a study."""
        found: dict[str, Any] = _frozen(self._part(study_id)).system_attrs
        return found

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial; KeyError if there is none."""
        study_id, number = divmod(trial_id, _MOST_TRIALS)
        for trial in self.get_all_trials(study_id):
            if trial.number == number:
                return trial
        return _missing(trial_id)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Sequence[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """Return a study's trials, by number."""
        del deepcopy  # they are made anew
        stored = self._part(study_id)
        with self._lock:
            records = self._store.history(study_id)
            attempts = self._store.attempts(study_id)
        spans = {one.trial: (one.began, one.ended) for one in attempts}
        objectives, constraints = goals_of(stored)
        make = _Maker(study_id, objectives, constraints, records, stored.config)
        trials = [make.trial(record, spans.get(record.number)) for record in records]
        return [t for t in trials if states is None or t.state in states]

    def _parts(self) -> Sequence[StoredStudy]:
        with self._lock:
            return every_part(self._store, self._name)

    def _part(self, study_id: int) -> StoredStudy:
        for stored in self._parts():
            if stored.id == study_id:
                return stored
        return _missing(study_id)

    # What is refused.

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise ReadOnlyError("This dashboard can only be looked at.")

    create_new_study = delete_study = _refuse
    set_study_user_attr = set_study_system_attr = _refuse
    create_new_trial = set_trial_param = set_trial_state_values = _refuse
    set_trial_intermediate_value = _refuse
    set_trial_user_attr = set_trial_system_attr = _refuse


class _Maker:
    """Turns records of one study into Optuna's trials."""

    def __init__(
        self,
        study_id: int,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint],
        records: Sequence[core.Record],
        config: Mapping[str, Any],
    ) -> None:
        self._study_id = study_id
        self._objectives = objectives
        self._constraints = constraints
        self._baselines = {
            r.label: r.scores for r in records if r.label is not None and r.scores
        }
        self._axes = _distributions(config, records)

    def trial(
        self, record: core.Record, span: tuple[str | None, str | None] | None
    ) -> FrozenTrial:
        """Return a record as Optuna has it."""
        began, ended = span or (None, None)
        state = _STATES[record.state]
        if record.is_partial:
            state = TrialState.PRUNED  # has no place among those that answered all
        is_scored = state is TrialState.COMPLETE and record.scores is not None
        params = dict(record.point or {})
        return FrozenTrial(
            number=record.number,
            trial_id=self._study_id * _MOST_TRIALS + record.number,
            state=state,
            value=None,
            values=[o.value(record.scores) for o in self._objectives]
            if is_scored and record.scores is not None
            else None,
            datetime_start=_time(began),
            datetime_complete=_time(ended) if state.is_finished() else None,
            params=params,
            distributions={name: self._axes[name] for name in params},
            user_attrs=_attributes(record),
            system_attrs=self._feasibility(record),
            intermediate_values={},
        )

    def _feasibility(self, record: core.Record) -> dict[str, Any]:
        """Say which bounds are kept, as Optuna does: above 0 is missed."""
        if not self._constraints or record.scores is None or record.is_partial:
            return {}
        scores, baselines = record.scores, self._baselines
        missed = [c.violation(scores, baselines) for c in self._constraints]
        return {"constraints": missed}


def _attributes(record: core.Record) -> dict[str, Any]:
    found = {
        "generation": record.generation,
        "label": record.title,
        "answered": None
        if record.precision is None
        else f"{record.precision.n_items} of {record.precision.of_items} items",
        "worker": record.worker,
        "attempts": record.attempt,
        "recipe": record.recipe[:12],
        "failure": None if record.failure is None else str(record.failure),
    }
    return {
        key: masked_by_form(value) if isinstance(value, str) else value
        for key, value in found.items()
        if value is not None
    }


def _distributions(
    config: Mapping[str, Any], records: Sequence[core.Record]
) -> dict[str, BaseDistribution]:
    """Return the axes of a study; what is not recorded of one is taken from values."""
    values: dict[str, list[Any]] = {}
    for record in records:
        for name, value in (record.point or {}).items():
            values.setdefault(name, []).append(value)
    recorded = config.get("axes", {})
    return {
        name: _recorded(recorded.get(name, {})) or _seen(found)
        for name, found in values.items()
    }


def _recorded(axis: Mapping[str, Any]) -> BaseDistribution | None:
    with suppress(LookupError, TypeError, ValueError):
        match axis.get("kind"):
            case "FloatAxis":
                return FloatDistribution(axis["low"], axis["high"], log=axis["log"])
            case "IntAxis":
                return IntDistribution(axis["low"], axis["high"])
            case "ChoiceAxis":
                return CategoricalDistribution(tuple(axis["choices"]))
    return None


def _seen(values: Sequence[Any]) -> BaseDistribution:
    kinds = {type(value) for value in values}
    if kinds == {int}:
        return IntDistribution(min(values), max(values))
    if kinds <= {int, float}:
        return FloatDistribution(min(values), max(values))
    return CategoricalDistribution(sorted(set(values), key=repr))


def _frozen(stored: StoredStudy) -> FrozenStudy:
    objectives, _ = goals_of(stored)
    return FrozenStudy(
        study_name=stored.name,
        direction=None,
        directions=_directions(objectives),
        user_attrs={"created": stored.created, "ended by": stored.finished or "-"},
        system_attrs={"study:metric_names": [o.name for o in objectives]},
        study_id=stored.id,
    )


def _directions(objectives: Sequence[Objective]) -> list[StudyDirection]:
    return [StudyDirection[o.direction.name] for o in objectives]


def _time(text: str | None) -> datetime | None:
    # Optuna's times have no zone.
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=None)


def _missing(what: object) -> NoReturn:
    raise KeyError(f"There is no {what} here.")


def read_only(application: Application, hosts: Sequence[str]) -> Application:
    """Let through to an application what reads, and is asked of this machine by name.

    Args:
        application: Any.
        hosts: ``Host`` headers that are answered: another one is a page elsewhere that
            had its name resolved to this machine.
    """

    def guarded(environ: Environ, start: StartResponse) -> Iterable[bytes]:
        if environ.get("HTTP_HOST", "") not in hosts:
            return _refused(
                start, "403 Forbidden", "This is not asked of this machine."
            )
        if environ["REQUEST_METHOD"] not in _READING:
            allow = [("Allow", ", ".join(_READING))]
            said = "This dashboard can only be looked at."
            return _refused(start, "405 Method Not Allowed", said, allow)
        return application(environ, start)

    return guarded


def _refused(
    start: StartResponse,
    status: str,
    reason: str,
    headers: Sequence[tuple[str, str]] = (),
) -> Iterable[bytes]:
    start(status, [("Content-Type", "application/json"), *headers])
    return [json.dumps({"reason": reason}).encode()]


class _Server(ThreadingMixIn, WSGIServer):
    """Answers several at once: a browser opens connections before it needs them."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of requests."""


def make_dashboard(name: str, *, db: str, port: int = 0) -> WSGIServer:
    """Make a dashboard that answers to this machine alone, once it is served.

    Args:
        name: Of the study.
        db: Database URL.
        port: 0 for any that is free.

    Raises:
        StudyNotFoundError: There is no such study.
        SetupError: The port is taken.
    """
    store = open_store(db, create=False)
    try:
        every_part(store, name)
        server = _bound(port)
    except BaseException:
        store.close()
        raise
    number = server.server_port
    hosts = [f"{host}:{number}" for host in ("localhost", "127.0.0.1")]
    server.set_app(read_only(wsgi(ReadOnlyStorage(store, name)), hosts))
    return server


def _bound(port: int) -> WSGIServer:
    try:
        return _Server(("127.0.0.1", port), _Quiet)
    except OSError as error:
        raise SetupError(
            f"Cannot listen on 127.0.0.1:{port}: {error.strerror}. Give another --port."
        ) from error


def show(name: str, *, db: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve a dashboard until the process is asked to stop.

    Args:
        name: Of the study.
        db: Database URL.
        port: As for ``make_dashboard``.
        ready: Told where it answers.
    """
    with make_dashboard(name, db=db, port=port) as server:
        ready(f"http://127.0.0.1:{server.server_port}/dashboard")
        server.serve_forever()
