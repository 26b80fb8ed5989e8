"""Join a running Ray, or start one on this machine, with a token of the run's own."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.cluster import preflight
from evomerge.cluster.leftovers import TEMP_PREFIX, end_processes, sweep
from evomerge.cluster.nodes import START_PATIENCE_S
from evomerge.cluster.start import TRIES
from evomerge.steps import step

_log = logging.getLogger(__name__)

QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
OBJECT_STORE_BYTES = 100 * 2**20  # only recipes and outcomes travel
NAMESPACE = "evomerge"
ENTRYPOINT = "evomerge"
RECONNECT = ("RAY_gcs_rpc_server_reconnect_timeout_s", "180")
"""How long the head of a cluster may be away before Ray ends this process; one that
was started here is started anew much sooner."""
_VITAL = ("raylet", "gcs_server")
_COORDINATORS = ("EVOMERGE_DB", "PGPASSWORD")
"""Variables that a worker has no use for, since it never sees the database."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where workers run.

    Attributes:
        run_dir: Folder for this run's Ray token.
        n_workers: Most at once; they wait for free resources. None means as many as
            the cluster carries at the time: one per GPU (or per ``gpus``), or without
            GPUs by cores and memory.
        most: However many are wanted; None for any number.
        address: Of a running Ray; None starts one on this machine.
        gpus: GPUs (or a share of one) each worker reserves, of one node; None means
            one where there are any.
        cpus: Cores each worker reserves.
        start_patience_s: How long to wait for a node where none is left to run on.
        env: Further environment variables of the workers.
    """

    run_dir: str
    n_workers: int | None = None
    most: int | None = None
    address: str | None = None
    gpus: float | None = None
    cpus: float = 1.0
    start_patience_s: float = START_PATIENCE_S
    env: Mapping[str, str] = field(default_factory=dict)


class RayConnection:
    """This process's tie to Ray."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._is_ours = False
        self._temp_dir: tempfile.TemporaryDirectory[str] | None = None

    def connect(self) -> None:
        """Join the cluster named, or start Ray here; nothing if Ray is up already.

        Raises:
            SetupError: The token is wrong, or the cluster of other versions.
            WorkerError: Ray cannot be reached or started.
        """
        if self._placement.address is None:
            _stay_on_loopback()
        else:
            os.environ.setdefault(*RECONNECT)
        _prepare_environment(Path(self._placement.run_dir))
        import ray

        if ray.is_initialized():
            return
        address = self._placement.address
        if address is not None:
            preflight.look(address)
        # On a busy machine Ray's own start-up limit of 30 s can be too short.
        tries = 1 if address is not None else TRIES
        for left in reversed(range(tries)):
            try:
                what = "joining Ray" if address is not None else "starting Ray"
                with step(what), _own_sigterm(), _without_command_line():
                    self._join(address) if address is not None else self._start_here()
            except Exception as error:  # Ray raises bare ones here
                self._stop()
                if left:
                    _log.warning("Ray did not start (%s); trying again", error)
                    continue
                raise preflight.told(error, address) from error
            self._is_ours = True
            return

    def close(self) -> None:
        """Leave Ray, and stop it if it was started here; idempotent."""
        if self._is_ours:
            self._is_ours = False
            self._stop()

    def has_died(self) -> bool:
        """Tell whether a Ray of this process has lost what it cannot do without."""
        from ray._private import worker

        node = worker._global_node
        dead = () if node is None else node.dead_processes()
        return any(kind in _VITAL for kind, _ in dead)

    def _stop(self) -> None:
        """Leave Ray; nothing stays of one that was started here, or half started."""
        import ray

        ray.shutdown()
        if self._temp_dir is not None:
            end_processes(Path(self._temp_dir.name))
            self._temp_dir.cleanup()
            self._temp_dir = None

    def _join(self, address: str) -> None:
        import ray

        ray.init(address=address, namespace=NAMESPACE, **QUIET)

    def _start_here(self) -> None:
        import ray

        n = self._placement.n_workers or 1
        sweep(Path(tempfile.gettempdir()))
        # Short: Ray puts Unix sockets below it, and their paths are limited.
        self._temp_dir = tempfile.TemporaryDirectory(
            prefix=f"{TEMP_PREFIX}{os.getpid()}-", ignore_cleanup_errors=True
        )
        inner = Path(self._temp_dir.name) / "r"  # Ray opens its own to everybody
        ray.init(
            address="local",  # else Ray takes RAY_ADDRESS, and is told how to start
            num_cpus=max(os.cpu_count() or 1, round(n * self._placement.cpus)),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            namespace=NAMESPACE,
            _temp_dir=str(inner),
            **QUIET,
        )


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the program's own answer to SIGTERM, which ``ray.init`` replaces."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before):
            with suppress(ValueError):  # only the main thread may; Ray did not then
                signal.signal(signal.SIGTERM, before)


@contextmanager
def _without_command_line() -> Iterator[None]:
    """Keep from Ray what may hold secrets of the coordinator's.

    Ray records the driver's command line, and hands its environment to all it starts.
    """
    from ray._private import utils

    before = utils.get_entrypoint_name
    utils.get_entrypoint_name = lambda: ENTRYPOINT
    kept = {name: os.environ.pop(name) for name in _COORDINATORS if name in os.environ}
    try:
        yield
    finally:
        utils.get_entrypoint_name = before
        os.environ.update(kept)


def _stay_on_loopback() -> None:
    """Have a Ray of our own listen on 127.0.0.1 alone.

    Ray reads this when it is imported. It is named for the systems on which Ray forms
    no clusters by default; there, as here, all its ports are then on loopback.
    """
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def _prepare_environment(run_dir: Path) -> None:
    """Give Ray a token of this run's own, unless the user has set one."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    # Ray gives its workers what the machine's other programs leave (nice 15).
    os.environ.setdefault("RAY_worker_niceness", "0")
    if "RAY_AUTH_MODE" in os.environ or "RAY_AUTH_TOKEN" in os.environ:
        return
    if "ray" in sys.modules:
        return  # its mode was settled when it was imported; a new one would clash
    os.environ["RAY_AUTH_MODE"] = "token"
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(_token(run_dir))


def _token(run_dir: Path) -> Path:
    """Return the file of the token, made whole by whoever comes first."""
    run_dir.mkdir(parents=True, exist_ok=True)
    token = run_dir / "ray-token"
    if not token.exists():
        descriptor, made = tempfile.mkstemp(dir=run_dir, prefix=".ray-token-")  # 0600
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(made, token)
        Path(made).unlink()
    return token
