"""Workers as Ray actors, on this machine or on a cluster.

Retries are the coordinator's: actors are never restarted and methods never repeated
by Ray. A lost worker is replaced; three in a row that never became ready stop the
study, because a fourth would not fare better.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

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

START_TRIES = 3
INIT_TRIES = 3  # on a busy machine Ray's own start-up limit of 30 s can be too short
QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
OBJECT_STORE_BYTES = 100 * 2**20  # only recipes and outcomes travel
NAMESPACE = "evomerge"
WORKER_BYTES = 3 * 2**30  # the libraries alone, on a CPU

# Set before vLLM or torch is imported in a worker.
WORKER_ENV = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where workers run.

    Attributes:
        run_dir: Folder for this run's Ray token.
        n_workers: How many; on a cluster they wait for free resources. None means
            one per GPU, or without GPUs as many as cores and memory carry.
        address: Of a running Ray; None starts one on this machine.
        gpus: GPUs (or a share of one) each worker reserves; None means one where
            there are any.
        cpus: Cores each worker reserves.
        env: Further environment variables of the workers.
    """

    run_dir: str
    n_workers: int | None = None
    address: str | None = None
    gpus: float | None = None
    cpus: float = 1.0
    env: Mapping[str, str] = field(default_factory=dict)


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
        self._n_bad_starts = 0
        self._owns_ray = False
        self._gpus = 0.0
        self._temp_dir: tempfile.TemporaryDirectory[str] | None = None

    def start(self) -> None:
        """Connect to Ray, or start one here, and bring the workers up."""
        self._connect()
        import ray

        found = ray.cluster_resources()
        n_gpus = found.get("GPU", 0.0)
        asked = self._placement.gpus
        self._gpus = (1.0 if n_gpus else 0.0) if asked is None else asked
        for _ in range(self._placement.n_workers or _as_many_as_fit(found)):
            self._add()

    def free(self) -> Sequence[str]:
        """Return the names of the workers that are up and idle."""
        return [name for name, slot in self._slots.items() if slot.state == "idle"]

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
        """Wait for an answer from any worker."""
        import ray

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
        """Stop every worker, and Ray itself if it was started here; idempotent."""
        if not self._slots and not self._owns_ray:
            return
        import ray

        for slot in self._slots.values():
            with suppress(Exception):
                ray.kill(slot.actor, no_restart=True)
        self._slots.clear()
        if self._owns_ray:
            self._owns_ray = False
            ray.shutdown()
        if self._temp_dir is not None:
            self._temp_dir.cleanup()
            self._temp_dir = None

    def pids(self) -> Mapping[str, int]:
        """Return the process id of every idle worker; fault tests kill them."""
        import ray

        return {
            name: ray.get(slot.actor.pid.remote())
            for name, slot in self._slots.items()
            if slot.state == "idle"
        }

    def _connect(self) -> None:
        _prepare_environment(Path(self._placement.run_dir))
        import ray

        if ray.is_initialized():
            return
        address = self._placement.address
        tries = 1 if address is not None else INIT_TRIES
        for left in reversed(range(tries)):
            try:
                self._join(address) if address is not None else self._start_here()
                self._owns_ray = True
                return
            except Exception as error:  # Ray raises bare ones here
                ray.shutdown()
                if left:
                    _log.warning("Ray did not start (%s); trying again", error)
                    continue
                where = address or "this machine"
                raise WorkerError(
                    f"Could not reach or start Ray at {where}: {error}. Check the "
                    "address and the token (RAY_AUTH_TOKEN_PATH), or leave --address "
                    "out."
                ) from error

    def _join(self, address: str) -> None:
        import ray

        ray.init(address=address, namespace=NAMESPACE, **QUIET)

    def _start_here(self) -> None:
        import ray

        n = self._placement.n_workers or 1
        # Short: Ray puts Unix sockets below it, and their paths are limited.
        self._temp_dir = tempfile.TemporaryDirectory(
            prefix="em-ray-", ignore_cleanup_errors=True
        )
        ray.init(
            num_cpus=max(os.cpu_count() or 1, round(n * self._placement.cpus)),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            namespace=NAMESPACE,
            _temp_dir=self._temp_dir.name,
            **QUIET,
        )

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
        from ray.exceptions import GetTimeoutError, RayError

        try:
            if slot.state == "starting":
                event = ray.get(slot.awaited)
            else:
                event = ray.get(next(slot.awaited))
        except GetTimeoutError:
            return
        except (RayError, StopIteration) as error:
            yield self._lost(slot, error)
            return
        if isinstance(event, WorkerReady):
            self._n_bad_starts = 0
            slot.state, slot.awaited = "idle", None
        elif isinstance(event, WorkerLost):
            self._slots.pop(slot.name)
        elif not isinstance(event, BlockScored):
            slot.state, slot.awaited = "idle", None
            slot.trial = slot.attempt = None
        yield event

    def _lost(self, slot: _Slot, error: BaseException) -> WorkerLost:
        was_starting = slot.state == "starting"
        self._n_bad_starts += was_starting
        is_hopeless = self._n_bad_starts >= START_TRIES
        failure = _failure(slot.name, error)
        if is_hopeless:
            self._slots.pop(slot.name)
        else:
            self._replace(slot)
        return WorkerLost(
            slot.name, slot.trial, slot.attempt, failure, fatal=is_hopeless
        )

    def _replace(self, slot: _Slot) -> None:
        import ray

        self._slots.pop(slot.name)
        with suppress(Exception):
            ray.kill(slot.actor, no_restart=True)
        self._add()


def _as_many_as_fit(found: Mapping[str, float]) -> int:
    if n_gpus := int(found.get("GPU", 0)):
        return n_gpus
    by_memory = int(found.get("memory", 0) // WORKER_BYTES)
    return max(1, min(int(found.get("CPU", 1)), by_memory))


def _failure(name: str, error: BaseException) -> Failure:
    from ray.exceptions import OutOfMemoryError

    is_memory = isinstance(error, OutOfMemoryError)
    cause = Cause.OUT_OF_MEMORY if is_memory else Cause.WORKER_LOST
    first = str(error).strip().splitlines()
    reason = first[0] if first else type(error).__name__
    return Failure(cause, Blame.MACHINE, f"Worker {name} was lost: {reason}")


def _prepare_environment(run_dir: Path) -> None:
    """Give Ray a token of this run's own, unless the user has set one."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    if "RAY_AUTH_MODE" in os.environ or "RAY_AUTH_TOKEN" in os.environ:
        return
    if "ray" in sys.modules:
        return  # its mode was settled when it was imported; a new one would clash
    os.environ["RAY_AUTH_MODE"] = "token"
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        run_dir.mkdir(parents=True, exist_ok=True)
        token = run_dir / "ray-token"
        if not token.exists():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with os.fdopen(os.open(token, flags, 0o600), "w") as file:
                file.write(secrets.token_hex(32))
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
