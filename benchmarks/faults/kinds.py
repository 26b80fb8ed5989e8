"""The kinds of faults: each strikes once, and says whom it hit and how it is over."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import psycopg
from faults.stage import Replica, Stage, Standing

from evomerge.errors import StudyLockedError
from evomerge.service.forking import server
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store

CLAIM_S = 15.0
LEASE_S = 30.0
_HOUR_S = 3600.0


@dataclass
class Strike:
    """A fault that struck.

    Attributes:
        kind: Its kind's name.
        victims: Jobs that must get on again.
        undo: What ends it: the disk is free again, the server back. False as long as it
            is not over.
        undo_at: When, on the monotonic clock.
        healed_at: When it was over: recovery is counted from here.
        before: Progress of each victim when it was over.
        took_s: Seconds until all of them got on; None as long as one has not.
    """

    kind: str
    victims: Collection[str]
    undo: Callable[[], object] | None = None
    undo_at: float = 0.0
    healed_at: float | None = None
    before: dict[str, int] = field(default_factory=dict)
    took_s: float | None = None


@dataclass(frozen=True)
class Scene:
    """What a kind of fault has to choose from.

    Attributes:
        unhurt: Studies at work that got over all that struck them.
    """

    stage: Stage
    standings: Sequence[Standing]
    rng: np.random.Generator
    unhurt: Sequence[Standing]

    def one(self) -> Standing | None:
        """Choose a study at work."""
        return self.pick([s for s in self.unhurt if s.pid is not None])

    def replica(self) -> tuple[Replica, list[str]] | None:
        """Choose a replica that has jobs, and is not frozen; return them too."""
        held: dict[str, list[str]] = {}
        for standing in self.unhurt:
            if standing.replica is not None:
                held.setdefault(standing.replica, []).append(standing.name)
        found = [r for r in self.stage.replicas if r.name in held]
        chosen = self.pick(found)
        return None if chosen is None else (chosen, held[chosen.name])

    def all(self) -> list[str]:
        """Return every such job at work."""
        return [s.name for s in self.unhurt]

    def pick(self, among: Sequence[object]) -> object | None:
        """Draw one; None of none."""
        return among[int(self.rng.integers(len(among)))] if among else None


def later(scene: Scene, low_s: float, high_s: float) -> float:
    """Return a time between so many seconds from now."""
    return time.monotonic() + float(scene.rng.uniform(low_s, high_s))


def coordinator_killed(scene: Scene) -> Strike | None:
    """SIGKILL to the process that has a study's lease."""
    return _signalled(scene, "coordinator killed", signal.SIGKILL)


def coordinator_told_to_end(scene: Scene) -> Strike | None:
    """SIGTERM to it, by nobody who knows of the job."""
    return _signalled(scene, "coordinator told to end", signal.SIGTERM)


def _signalled(scene: Scene, kind: str, number: signal.Signals) -> Strike | None:
    victim = scene.one()
    if victim is None:
        return None
    os.kill(victim.pid, number)
    return Strike(kind, [victim.name])


def lease_stolen(scene: Scene) -> Strike | None:
    """Another process takes the study's lease while its coordinator lives."""
    victim = scene.one()
    if victim is None:
        return None
    scene.stage.execute(
        "UPDATE em_study SET lease_until = lease_until - 100 WHERE id = %s",
        victim.study,
    )
    _steal(scene.stage, victim)
    return Strike("lease stolen", [victim.name])


def coordinator_frozen(scene: Scene) -> Strike | None:
    """SIGSTOP until the lease has run out and was another's; then it wakes up."""
    victim = scene.one()
    if victim is None:
        return None
    os.kill(victim.pid, signal.SIGSTOP)

    def wake() -> None:
        _steal(scene.stage, victim)
        with suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGCONT)

    end = time.monotonic() + LEASE_S + 2
    return Strike("coordinator frozen past its lease", [victim.name], wake, end)


def _steal(stage: Stage, victim: Standing) -> None:
    store = open_store(stage.url, create=False)
    try:
        lease = store.lease(victim.study, this_process(), LEASE_S)
        store.release(lease)
    except StudyLockedError:
        pass  # its coordinator was faster, and has it anew
    finally:
        store.close()


def replica_killed(scene: Scene) -> Strike | None:
    """SIGKILL to a replica; another one is started some seconds later."""
    return _replaced(scene, "replica killed", signal.SIGKILL)


def replica_told_to_end(scene: Scene) -> Strike | None:
    """SIGTERM to a replica: it drains."""
    return _replaced(scene, "replica told to end", signal.SIGTERM)


def clock_of_replica_wrong(scene: Scene) -> Strike | None:
    """A replica is killed, and replaced by one whose clock is an hour off."""
    off_s = float(scene.rng.choice([-_HOUR_S, _HOUR_S]))
    return _replaced(
        scene, "clock of a replica wrong by an hour", signal.SIGKILL, off_s
    )


def clock_of_database_set_back(scene: Scene) -> Strike | None:
    """Every time that was to come is an hour further off; then a replica is killed."""
    strike = _replaced(scene, "clock of the database set back", signal.SIGKILL)
    if strike is None:
        return None
    for statement in (
        "UPDATE em_job SET claim_until = claim_until + 3600",
        "UPDATE em_study SET lease_until = lease_until + 3600",
    ):
        scene.stage.execute(statement)
    return strike


def _replaced(
    scene: Scene, kind: str, number: signal.Signals, clock_s: float = 0.0
) -> Strike | None:
    chosen = scene.replica()
    if chosen is None:
        return None
    replica, held = chosen
    scene.stage.replicas.remove(replica)
    replica.process.send_signal(number)

    def replace() -> None:
        replica.process.poll()
        scene.stage.start_replica(clock_s=clock_s)

    return Strike(kind, held, replace, later(scene, 0, 4))


def replica_frozen(scene: Scene) -> Strike | None:
    """SIGSTOP to a replica until its claims are others', which it then learns."""
    chosen = scene.replica()
    if chosen is None:
        return None
    replica, held = chosen
    scene.stage.replicas.remove(replica)
    replica.process.send_signal(signal.SIGSTOP)

    def wake() -> None:
        replica.process.send_signal(signal.SIGCONT)
        scene.stage.replicas.append(replica)

    end = time.monotonic() + CLAIM_S + 4
    return Strike("replica frozen past its claims", held, wake, end)


def forked_process_killed(scene: Scene) -> Strike | None:
    """SIGKILL to the process that a replica's coordinators are forks of."""
    victim = scene.one()
    parent = None if victim is None else _forked_from(victim.pid)
    if parent is None:
        return None
    held = [s.name for s in scene.unhurt if s.pid and _forked_from(s.pid) == parent]
    os.kill(parent, signal.SIGKILL)
    return Strike("what coordinators are forks of killed", held)


def _forked_from(pid: int) -> int | None:
    """Return what a coordinator is a fork of; None if one of both is gone."""
    with suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        parent = int(stat.rpartition(")")[2].split()[1])
        # Who lost its parent is somebody else's child.
        words = Path(f"/proc/{parent}/cmdline").read_bytes()
        return parent if server.__name__.encode() in words.split(b"\0") else None
    return None


def replica_of_another_version(scene: Scene) -> Strike | None:
    """A replica that knows another schema is started; it must refuse to work."""
    stage = scene.stage
    replica = stage.start_replica(version="9999")

    def has_refused() -> bool:
        code = replica.process.poll()
        stage.refused += bool(code)
        return code is not None

    return Strike("replica of another version", [], has_refused)


def database_killed(scene: Scene) -> Strike | None:
    """SIGKILL to the server's postmaster; it is started up to 3 s later."""
    return _away(scene, "database killed", scene.stage.server.kill)


def database_restarted(scene: Scene) -> Strike | None:
    """The server is shut down, and started up to 3 s later."""
    return _away(scene, "database restarted", scene.stage.server.stop)


def _away(scene: Scene, kind: str, strike: Callable[[], None]) -> Strike | None:
    if not scene.all():
        return None
    strike()
    return Strike(kind, scene.all(), scene.stage.server.start, later(scene, 0, 3))


def connections_cut(scene: Scene) -> Strike | None:
    """Every connection to the database is ended by the server."""
    if not scene.all():
        return None
    scene.stage.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
        "current_database() AND pid <> pg_backend_pid()"
    )
    return Strike("connections cut", scene.all())


def spool_full(scene: Scene) -> Strike | None:
    """The replicas' disk is full, and a coordinator must be started on it."""
    victim = scene.one()
    if victim is None or not os.path.ismount(scene.stage.spool):
        return None
    ballast = scene.stage.spool / "ballast"
    if ballast.exists():
        return None
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    with suppress(ProcessLookupError):  # it may just have ended
        os.kill(victim.pid, signal.SIGKILL)
    end = later(scene, 3, 8)
    empty = partial(ballast.unlink, missing_ok=True)
    return Strike("spool full", [victim.name], empty, end)


def machine_lost(scene: Scene) -> Strike | None:
    """A replica, its coordinators and the database die in one moment."""
    chosen = scene.replica()
    if chosen is None:
        return None
    replica, held = chosen
    scene.stage.replicas.remove(replica)
    replica.process.kill()
    for standing in scene.standings:
        if standing.name in held and standing.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(standing.pid, signal.SIGKILL)
    scene.stage.server.kill()

    def back() -> None:
        scene.stage.server.start()
        replica.process.poll()
        scene.stage.start_replica()

    kind = "replica, coordinators and database at once"
    return Strike(kind, scene.all(), back, later(scene, 0, 3))


def worker_killed(scene: Scene) -> Strike | None:
    """SIGKILL to a worker on Ray, which need not be at a trial."""
    victim = scene.one()
    if victim is None:
        return None
    with psycopg.connect(scene.stage.url) as connection:
        found = connection.execute(
            "SELECT data::json->>'pid' FROM em_event WHERE kind = 'worker' AND "
            "study_id = %s ORDER BY id DESC LIMIT 3",
            [victim.study],
        ).fetchall()
    for (pid,) in found:
        with suppress(OSError, TypeError):
            with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123
                if b"ray::" not in file.read():
                    continue
            os.kill(int(pid), signal.SIGKILL)
            return Strike("worker killed", [victim.name])
    return None


Kind = Callable[[Scene], Strike | None]

IN_PROCESS: Sequence[Kind] = (
    coordinator_killed,
    coordinator_told_to_end,
    lease_stolen,
    coordinator_frozen,
    replica_killed,
    replica_told_to_end,
    replica_frozen,
    forked_process_killed,
    replica_of_another_version,
    clock_of_replica_wrong,
    clock_of_database_set_back,
    database_killed,
    database_restarted,
    connections_cut,
    spool_full,
    machine_lost,
)
"""Kinds of faults that strike in turn, in an order that is drawn anew each time."""

ON_RAY: Sequence[Kind] = (*[worker_killed] * 8, coordinator_killed)
