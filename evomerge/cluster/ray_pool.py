"""Workers as Ray actors, on this machine or on a cluster.

Retries are the coordinator's: actors are never restarted and methods never repeated
by Ray. A lost worker is replaced, unless ``nodes`` says that another would not fare
better. How many there are follows the cluster: each that is wanted is an actor, which
waits with Ray for a node that has room for it.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from evomerge.cluster import actors
from evomerge.cluster.actors import Share, failed, failure_of
from evomerge.cluster.courier import open_courier
from evomerge.cluster.goods import Stock, stock_of
from evomerge.cluster.nodes import Nodes
from evomerge.cluster.on_node import Lacking
from evomerge.cluster.ray_connection import Placement, RayConnection
from evomerge.cluster.report import difference, needed, node_of, report_here
from evomerge.cluster.room import DRAINED, Room
from evomerge.cluster.start import TRIES, Starts
from evomerge.cluster.watch import Seen, Watch
from evomerge.core.trial import Blame, Cause, Failure
from evomerge.core.work import (
    Assignment,
    BlockScored,
    Node,
    NodeSetAside,
    PoolEvent,
    Roster,
    Wishes,
    WorkerLost,
    WorkerReady,
    WorkerSetup,
)
from evomerge.errors import WorkerError

_log = logging.getLogger(__name__)

ANSWER_S = 20.0
"""Longest that an answer which is there may take to arrive."""
CALL_BACK_S = 20.0
"""Longest that a worker may take to reach the coordinator on the way of results."""
PLACING_S = 15.0
"""After this time a worker that has not answered counts as waiting for a place."""
_UP = ("idle", "busy")
_Found = tuple[Seen, Wishes, tuple[str, ...]]
"""By what it is decided how many workers there are to be."""


@dataclass(slots=True)
class _Slot:
    name: str
    actor: Any
    awaited: Any  # an object reference, or while calling and busy a stream of them
    since: float
    state: Literal["placing", "calling", "starting", "idle", "busy"] = "placing"
    report: Mapping[str, Any] = field(default_factory=dict)
    trial: int | None = None
    attempt: int | None = None

    @property
    def node(self) -> Node | None:
        return node_of(self.report) if self.report else None


class RayPool:
    """A pool of Ray actors."""

    def __init__(self, setup: WorkerSetup, placement: Placement) -> None:
        self._setup = setup
        self._placement = placement
        self._slots: dict[str, _Slot] = {}
        self._n_started = 0
        self._mark = secrets.token_hex(4)  # names are unlike those of other pools
        self._starts = Starts()  # of Ray itself
        self._is_dead = False
        self._ray = RayConnection(placement)
        self._share = Share(placement.cpus, 0.0)
        self._nodes = Nodes(placement.start_patience_s)
        self._wishes = Wishes()
        self._watch = Watch(actors.look)
        self._ours = report_here()
        self._stock: Stock | None = None
        self._courier: Any = None
        self._full: _Found | None = None  # of which it is known that none is amiss

    def start(self) -> None:
        """Connect to Ray, or start one here, and bring the workers up."""
        self._ray.connect()
        self._watch = Watch(actors.look)
        self._watch.start()
        gpus = self._placement.gpus
        if gpus is None:
            gpus = float(any(m.gpus for m in self._watch.seen.machines.values()))
        self._share = Share(self._placement.cpus, gpus)
        if self._placement.address is not None:
            self._stock = stock_of(self._setup)
        self._fill()

    def free(self) -> Sequence[str]:
        """Return the names of the workers that are up and idle."""
        drained = self._wishes.drained
        return [
            name
            for name, slot in self._slots.items()
            if slot.state == "idle" and name not in drained
        ]

    def workers(self) -> Sequence[str]:
        """Return the names of the workers that are up."""
        return [name for name, slot in self._slots.items() if slot.state in _UP]

    def roster(self) -> Roster:
        """Return how many workers there are, and how many there are to be."""
        now = time.monotonic()
        waits = any(
            slot.state == "placing" and now - slot.since > PLACING_S
            for slot in self._slots.values()
        )
        waits_for = None
        if self._watch.is_away:
            waits_for = "the head of the cluster"
        elif not self._usable():
            waits_for = f"a node that has {self._share.words}"
        elif waits:
            waits_for = self._share.words
        elif not self._wanted():
            waits_for = DRAINED
        n_up = len(self.workers())
        return Roster(
            wanted=max(n_up, self._wanted()),
            up=n_up,
            waits_for=waits_for,
            n_aside=len(self._nodes.aside),
        )

    def heed(self, wishes: Wishes) -> None:
        """Take what is wanted of the workers from now on."""
        self._wishes = wishes

    def submit(self, worker: str, assignment: Assignment) -> None:
        """Send an assignment to an idle worker."""
        slot = self._slots[worker]
        if slot.state != "idle":
            raise RuntimeError(f"worker {worker!r} is {slot.state}, not idle")
        stream = slot.actor.run.options(num_returns="streaming")
        self._enter(slot, "busy", stream.remote(assignment))
        slot.trial, slot.attempt = assignment.trial, assignment.attempt

    def poll(self, timeout_s: float) -> Sequence[PoolEvent]:
        """Wait for an answer from any worker.

        Raises:
            WorkerError: Ray itself died on this machine, and another does not start;
                or there was no node to run on for too long.
        """
        import ray

        if self._is_dead:
            self._start_anew()
        if self._ray.has_died():
            return self._all_lost()
        is_up = any(slot.state in _UP for slot in self._slots.values())
        self._nodes.wait(self._watch.now, self._usable(), is_up=is_up)
        self._fill()
        waiting = {s.name: s.awaited for s in self._slots.values() if s.state != "idle"}
        if not waiting:
            return ()
        refs = list(waiting.values())
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
        if not ready:
            ready, _ = ray.wait(refs, num_returns=1, timeout=timeout_s)
        arrived = set(ready)
        names = [name for name, ref in waiting.items() if ref in arrived]
        events = [event for name in names for event in self._read(name)]
        events += self._cut_off()
        self._fill()
        return events

    def cancel(self, worker: str) -> None:
        """Kill a worker and bring up another; one that is gone is no error."""
        if worker in self._slots:
            self._drop(self._slots[worker])
        self._fill()

    def close(self) -> None:
        """Stop every worker, and leave Ray; idempotent."""
        for slot in list(self._slots.values()):
            self._drop(slot)
        if self._courier is not None:
            actors.kill(self._courier)
            self._courier = None
        self._watch.stop()
        self._ray.close()

    def pids(self) -> Mapping[str, int]:
        """Return the process id of every idle worker; fault tests kill them."""
        import ray

        return {
            name: ray.get(slot.actor.pid.remote())
            for name, slot in self._slots.items()
            if slot.state == "idle"
        }

    # How many workers there are to be.

    @property
    def _seen(self) -> Seen:
        return self._watch.seen

    def _usable(self) -> frozenset[str]:
        fits = self._share.fits
        found = self._seen.machines.items()
        return frozenset(key for key, machine in found if fits(machine))

    def _wanted(self) -> int:
        wanted, placed = self._wishes.workers, self._placement
        n_workers = placed.n_workers if wanted is None else wanted
        if n_workers is not None and placed.most is not None:
            n_workers = min(n_workers, placed.most)
        return self._room.wanted(n_workers)

    @property
    def _room(self) -> Room:
        seen, aside = self._seen.machines, self._nodes.aside
        return Room(seen, self._share, aside, self._wishes)

    def _fill(self) -> None:
        """Bring up what is missing, and take away what is too many and idle."""
        found = (self._seen, self._wishes, self._nodes.aside)
        if self._watch.is_away or self._is_full(found):
            return
        machines = self._seen.machines
        for name in self._wishes.drained.keys() & self._slots.keys():
            if self._slots[name].state != "busy":
                self._drop(self._slots[name])
        there = [
            slot
            for slot in self._slots.values()
            if (slot.node is None or slot.node.id in machines)
            and slot.name not in self._wishes.drained
        ]
        surplus = len(there) - self._wanted()
        is_settled = (
            surplus <= 0 and not self._wishes.drained.keys() & self._slots.keys()
        )
        for state in ("placing", "calling", "starting", "idle"):
            for slot in reversed(there):
                if surplus > 0 and slot.state == state:
                    self._drop(slot)
                    surplus -= 1
        for _ in range(-surplus):
            self._add()
        # Asked after every event: not looked at again until somebody comes or goes.
        self._full = found if is_settled else None

    def _is_full(self, found: _Found) -> bool:
        full = self._full
        if full is None:
            return False
        # Of the same objects: to compare what they hold takes as long as to look anew.
        is_same = full[0] is found[0] and full[1] is found[1]
        return is_same and full[2] == found[2]

    def _add(self) -> None:
        name = f"w{self._n_started}-{self._mark}"
        self._n_started += 1
        slots = self._slots.values()
        at = [s.node.id for s in slots if s.node and s.name not in self._wishes.drained]
        closed = self._room.closed(at)
        actor = actors.make(name, self._share, self._placement.env, closed)
        awaited = actor.report.remote()
        self._slots[name] = _Slot(name, actor, awaited, time.monotonic())

    def _drop(self, slot: _Slot) -> None:
        self._slots.pop(slot.name)
        self._full = None
        actors.kill(slot.actor)

    # What workers answer.

    def _enter(self, slot: _Slot, state: Any, awaited: Any) -> None:
        slot.state, slot.awaited, slot.since = state, awaited, time.monotonic()
        slot.trial = slot.attempt = None

    def _read(self, name: str) -> Iterator[PoolEvent]:
        import ray
        from ray.exceptions import RayError

        slot = self._slots.get(name)
        if slot is None:
            return  # taken away with its node
        is_stream = slot.state in ("calling", "busy")
        try:
            awaited = next(slot.awaited) if is_stream else slot.awaited
            answer = ray.get(awaited, timeout=ANSWER_S)
        except (RayError, StopIteration) as error:
            yield from self._died(slot, error)
            return
        match slot.state:
            case "placing":
                yield from self._compare(slot, answer)
            case "calling":
                if answer:  # the last
                    self._begin(slot, None)
            case "starting":
                yield from self._started(slot, answer)
            case _:
                if not isinstance(answer[-1], BlockScored):
                    self._enter(slot, "idle", None)
                yield from answer

    def _compare(self, slot: _Slot, report: Mapping[str, Any]) -> Iterator[PoolEvent]:
        """Look whether a node has what the study needs, before its first work."""
        slot.report = report
        self._full = None  # now it is known to be of a node
        other = difference(self._ours, report, needed(self._setup))
        if other is not None:
            message = f"The worker was not started on {slot.node}: {other}"
            yield from self._refuse(slot, message, "versions", futile=True)
            return
        kept = self._ours["versions"]
        self._ours["versions"] = {
            name: kept[name] or found for name, found in report["versions"].items()
        }
        stream = slot.actor.call_back.options(num_returns="streaming")
        self._enter(slot, "calling", stream.remote())

    def _cut_off(self) -> Iterator[PoolEvent]:
        """Tell of workers whose results do not arrive."""
        now = time.monotonic()
        for slot in list(self._slots.values()):
            if slot.state == "calling" and now - slot.since > CALL_BACK_S:
                message = (
                    f"Workers on {slot.node} cannot call back to the coordinator at "
                    f"{actors.own_address()}: no result within {CALL_BACK_S:g} s. "
                    "Start Ray on the coordinator's machine with --node-ip-address set "
                    "to an address that they reach, and open its ports to them."
                )
                yield from self._refuse(slot, message, "call_back")

    def _begin(self, slot: _Slot, courier: Any) -> None:
        ready = slot.actor.start.remote(self._setup, self._stock, courier)
        self._enter(slot, "starting", ready)

    def _started(
        self, slot: _Slot, answer: WorkerReady | WorkerLost | Lacking
    ) -> Iterator[PoolEvent]:
        if isinstance(answer, Lacking):
            _log.info("%s fetches %s.", slot.node, ", ".join(answer.what))
            if self._courier is None and self._stock is not None:
                self._courier = open_courier(self._stock)
            self._begin(slot, self._courier)
            return
        if isinstance(answer, WorkerLost):
            yield from self._unready(slot, answer)
            return
        self._starts.succeeded()
        self._nodes.succeeded(slot.node)
        self._enter(slot, "idle", None)
        yield replace(answer, facts={**answer.facts, **slot.report})

    def _died(self, slot: _Slot, error: BaseException) -> Iterator[PoolEvent]:
        if slot.state == "placing" and actors.is_foreign(error):
            message = (
                f"The node's evomerge does not answer as this one does. Install there "
                f"what the coordinator has.\n{error}"
            )
            yield from self._refuse(slot, message, "versions", futile=True)
            return
        failure = failure_of(slot.name, error)
        lost = WorkerLost(slot.name, slot.trial, slot.attempt, failure, kind="died")
        # While the head is away, a start that fails says nothing of its node.
        if slot.state in _UP or self._watch.is_away:
            self._drop(slot)
            yield lost
        else:
            yield from self._unready(slot, lost)

    def _refuse(
        self, slot: _Slot, message: str, kind: str, *, futile: bool = False
    ) -> Iterator[PoolEvent]:
        failure = Failure(Cause.ENGINE, Blame.MACHINE, message)
        lost = WorkerLost(slot.name, None, None, failure, True, futile, kind)
        yield from self._unready(slot, lost)

    def _unready(self, slot: _Slot, lost: WorkerLost) -> Iterator[PoolEvent]:
        """Tell of a worker that never became ready, and what that means."""
        node = slot.node or self._place(slot)
        self._drop(slot)
        usable = self._usable() | ({node.id} if node is not None else set())
        for event in self._nodes.failed(node, lost, usable):
            if isinstance(event, NodeSetAside):
                self._leave(event.node)
            yield event

    def _place(self, slot: _Slot) -> Node | None:
        """Return where an actor was that did not live to say so, if it can be told."""
        key = self._seen.places.get(actors.id_of(slot.actor))
        machine = None if key is None else self._seen.machines.get(key)
        return None if machine is None else machine.node

    def _leave(self, node: Node) -> None:
        """Take away what starts on a node, or still might."""
        for slot in list(self._slots.values()):
            is_there = slot.node is None or slot.node.id == node.id
            if is_there and slot.state not in _UP:
                self._drop(slot)

    # A Ray of this machine that died.

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
            WorkerLost(slot.name, slot.trial, slot.attempt, failed(slot.name, how))
            for slot in self._slots.values()
        ]
        self._is_dead = True
        self._slots.clear()
        self._full = None
        return lost

    def _start_anew(self) -> None:
        self._watch.stop()
        self._ray.close()
        self._is_dead = False
        self.start()
