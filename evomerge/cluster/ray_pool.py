"""Workers as Ray actors, on this machine or on a cluster.

Retries are the coordinator's: actors are never restarted and methods never repeated
by Ray. A lost worker is replaced, unless ``start`` says that another would not fare
better.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from evomerge.cluster.ray_connection import Placement, RayConnection
from evomerge.cluster.start import TRIES, Starts
from evomerge.core.trial import Blame, Cause, Failure
from evomerge.core.work import (
    Assignment,
    BlockScored,
    PoolEvent,
    WorkerLost,
    WorkerReady,
    WorkerSetup,
)
from evomerge.errors import WorkerError

_log = logging.getLogger(__name__)

ANSWER_S = 20.0
"""Longest that an answer which is there may take to arrive."""

# Set before vLLM or torch is imported in a worker.
WORKER_ENV = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TQDM_DISABLE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
}


@dataclass(slots=True)
class _Slot:
    name: str
    actor: Any
    state: Literal["starting", "idle", "busy"]
    awaited: Any  # an object reference while starting, a stream of them while busy
    trial: int | None = None
    attempt: int | None = None


class RayPool:
    """A pool of Ray actors."""

    def __init__(self, setup: WorkerSetup, placement: Placement) -> None:
        self._setup = setup
        self._placement = placement
        self._slots: dict[str, _Slot] = {}
        self._n_started = 0
        self._starts = Starts()
        self._n_missing = 0
        self._ray = RayConnection(placement)
        self._gpus = 0.0

    def start(self) -> None:
        """Connect to Ray, or start one here, and bring the workers up."""
        self._ray.connect()
        self._gpus, n_workers = self._ray.share_out()
        for _ in range(n_workers):
            self._add()

    def free(self) -> Sequence[str]:
        """Return the names of the workers that are up and idle."""
        return [name for name, slot in self._slots.items() if slot.state == "idle"]

    def workers(self) -> Sequence[str]:
        """Return the names of the workers that are up."""
        return [n for n, slot in self._slots.items() if slot.state != "starting"]

    def submit(self, worker: str, assignment: Assignment) -> None:
        """Send an assignment to an idle worker."""
        slot = self._slots[worker]
        if slot.state != "idle":
            raise RuntimeError(f"worker {worker!r} is {slot.state}, not idle")
        stream = slot.actor.run.options(num_returns="streaming")
        slot.awaited = stream.remote(assignment)
        slot.state = "busy"
        slot.trial, slot.attempt = assignment.trial, assignment.attempt

    def poll(self, timeout_s: float) -> Sequence[PoolEvent]:
        """Wait for an answer from any worker.

        Raises:
            WorkerError: Ray itself died on this machine, and another does not start.
        """
        import ray

        if self._n_missing:
            self._start_anew()
        if self._ray.has_died():
            return self._all_lost()
        waiting = {
            slot.name: slot.awaited
            for slot in self._slots.values()
            if slot.state != "idle"
        }
        if not waiting:
            return ()
        refs = list(waiting.values())
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
        if not ready:
            ready, _ = ray.wait(refs, num_returns=1, timeout=timeout_s)
        names = [name for name, ref in waiting.items() if ref in ready]
        return [event for name in names for event in self._read(self._slots[name])]

    def cancel(self, trial: int, attempt: int) -> None:
        """Kill the worker at this attempt and bring up another."""
        for slot in list(self._slots.values()):
            if (slot.trial, slot.attempt) == (trial, attempt):
                self._replace(slot)

    def close(self) -> None:
        """Stop every worker, and leave Ray; idempotent."""
        for slot in self._slots.values():
            _kill(slot)
        self._slots.clear()
        self._ray.close()

    def pids(self) -> Mapping[str, int]:
        """Return the process id of every idle worker; fault tests kill them."""
        import ray

        return {
            name: ray.get(slot.actor.pid.remote())
            for name, slot in self._slots.items()
            if slot.state == "idle"
        }

    def _all_lost(self) -> Sequence[WorkerLost]:
        """Say that Ray itself died; the next poll, when that is known, starts another.

        Raises:
            WorkerError: It died too often without a worker ready in between.
        """
        how = "Ray itself died on this machine"
        if self._starts.failed():
            raise WorkerError(f"{how}, {TRIES} times before a worker was ready.")
        _log.warning("%s; it is started anew.", how)
        lost = [
            WorkerLost(slot.name, slot.trial, slot.attempt, _failed(slot.name, how))
            for slot in self._slots.values()
        ]
        self._n_missing = len(lost)
        self._slots.clear()
        return lost

    def _start_anew(self) -> None:
        self._ray.close()
        self._ray.connect()
        for _ in range(self._n_missing):
            self._add()
        self._n_missing = 0

    def _add(self) -> None:
        import ray

        from evomerge.cluster.worker import Worker

        name = f"w{self._n_started}"
        self._n_started += 1
        actor = (
            ray.remote(Worker)
            .options(
                num_cpus=self._placement.cpus,
                num_gpus=self._gpus,
                max_restarts=0,
                max_task_retries=0,
                runtime_env={"env_vars": {**WORKER_ENV, **self._placement.env}},
            )
            .remote(name, self._setup)
        )
        self._slots[name] = _Slot(name, actor, "starting", actor.start.remote())

    def _read(self, slot: _Slot) -> Iterator[PoolEvent]:
        import ray
        from ray.exceptions import RayError

        try:
            if slot.state == "starting":
                event = ray.get(slot.awaited, timeout=ANSWER_S)
            else:
                event = ray.get(next(slot.awaited), timeout=ANSWER_S)
        except (RayError, StopIteration) as error:
            yield self._lost(slot, error)
            return
        if isinstance(event, WorkerReady):
            self._starts.succeeded()
            slot.state, slot.awaited = "idle", None
        elif isinstance(event, WorkerLost):
            event = self._gone(slot, event)
        elif not isinstance(event, BlockScored):
            slot.state, slot.awaited = "idle", None
            slot.trial = slot.attempt = None
        yield event

    def _lost(self, slot: _Slot, error: BaseException) -> WorkerLost:
        failure = _failure(slot.name, error)
        return self._gone(
            slot, WorkerLost(slot.name, slot.trial, slot.attempt, failure)
        )

    def _gone(self, slot: _Slot, lost: WorkerLost) -> WorkerLost:
        """Replace a lost worker, unless the next would not fare better."""
        if slot.state == "starting":
            lost = self._starts.lost(lost)
        if lost.fatal:
            self._slots.pop(slot.name)
            _kill(slot)
            return lost
        self._replace(slot)
        return lost

    def _replace(self, slot: _Slot) -> None:
        self._slots.pop(slot.name)
        _kill(slot)
        self._add()


def _kill(slot: _Slot) -> None:
    import ray

    with suppress(Exception):  # it may be dead already, or Ray itself
        ray.kill(slot.actor, no_restart=True)


# What Ray's account of a death means, first match first.
_DEATHS = (
    ("killed by `ray.kill`", "its actor was killed by hand"),
    ("exit code", "its process ended by itself"),
    ("its node has died", "its machine was lost"),
    ("node was terminated", "its machine was lost"),
)
_KILLED = "its process was killed, possibly for memory, or crashed"


def _failure(name: str, error: BaseException) -> Failure:
    """Say how a worker died; Ray's own account follows in further lines."""
    from ray.exceptions import ActorDiedError, OutOfMemoryError

    account = str(error).strip()
    if isinstance(error, OutOfMemoryError):
        cause, how = Cause.OUT_OF_MEMORY, "it was killed, for memory ran out"
    elif isinstance(error, ActorDiedError):
        fits = (how for sign, how in _DEATHS if sign in account)
        cause, how = Cause.WORKER_LOST, next(fits, _KILLED)
    else:
        head = account.partition("\n")[0]
        cause, how = Cause.WORKER_LOST, head or type(error).__name__
    return _failed(name, how, cause, account)


def _failed(
    name: str, how: str, cause: Cause = Cause.WORKER_LOST, account: str = ""
) -> Failure:
    message = f"Worker {name} was lost: {how}.\n{account}".rstrip()
    return Failure(cause, Blame.MACHINE, message)
