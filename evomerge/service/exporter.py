"""An exporter: writes the exports that are asked for, one at a time, as processes."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from evomerge.errors import ClaimLostError, SchemaError, StoreUnreachableError
from evomerge.service.environment import of_coordinator
from evomerge.service.policy import write_policy
from evomerge.service.processes import ChildProcess, Command, Process
from evomerge.service.supervisor import BEAT_S, Site
from evomerge.store.queue.exports import Exports, Order, Written

POLL_S = 1.0
_logger = logging.getLogger(__name__)


def folder_of(site: Site, order: Order) -> Path:
    """Return the folder of an export; all that is written for it lies there."""
    return site.folder(order.job) / "exports" / str(order.number)


def archive_of(site: Site, order: Order) -> Path:
    """Return the archive of a finished export."""
    return folder_of(site, order) / "model.tar"


@dataclass
class _Work:
    order: Order
    steps: list[Command]
    process: Process


class Exporter:
    """Writes exports, in the thread that calls ``run``.

    Args:
        exports: Of this thread alone.
        site: Where processes run.
        name: Names this exporter and nobody else.
        start: Starts a process.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        exports: Exports,
        site: Site,
        name: str,
        *,
        start: Callable[[Command], Process] = ChildProcess,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._exports = exports
        self._site = site
        self._name = name
        self._start = start
        self._clock = clock
        self._work: _Work | None = None
        self._next_beat = clock()
        self._draining = threading.Event()

    def drain(self) -> None:
        """Claim no more, stop what runs, and end ``run``; from any thread."""
        self._draining.set()

    def run(self) -> None:
        """Write exports until drained; a database that is away is waited for."""
        try:
            while not self._draining.is_set():
                # The supervisor tells of either.
                with suppress(StoreUnreachableError, SchemaError):
                    self.step()
                self._draining.wait(POLL_S)
        finally:
            self._give_back()

    def step(self) -> None:
        """Look once at the process, or else for an export to be written.

        Raises:
            StoreUnreachableError: The database does not answer; call again.
        """
        try:
            if self._work is not None:
                self._follow(self._work)
            elif (order := self._exports.claim(self._name)) is not None:
                self._begin(order)
        except ClaimLostError as error:
            _logger.warning("%s", error)
            if self._work is not None:
                self._work.process.kill()
            self._work = None

    def _begin(self, order: Order) -> None:
        folder = folder_of(self._site, order)
        try:
            if folder.exists():  # of an earlier start
                shutil.rmtree(folder)
            folder.mkdir(mode=0o700, parents=True)
            first, *steps = self._steps(order, folder)
            self._work = _Work(order, steps, self._start(first))
        except OSError as error:
            said = f"it cannot be written: {error.strerror or error}"
            self._exports.ended(order, self._name, Written(why=said))

    def _steps(self, order: Order, folder: Path) -> Sequence[Command]:
        words = ["-m", "evomerge", "export", order.job.study, str(folder / "model")]
        words += [] if order.trial is None else ["--trial", str(order.trial)]
        words += [] if order.is_scored else ["--no-score"]
        policy = self._site.policy
        if policy is not None:
            bundle = self._site.folder(order.job) / "bundle"
            write_policy(policy.with_roots(bundle), folder / "policy.yaml")
            words += ["--policy", str(folder / "policy.yaml")]
        pack = ["-m", "evomerge.service.packing", str(folder / "model")]
        pack.append(str(archive_of(self._site, order)))
        environment = {**of_coordinator(policy), "EVOMERGE_DB": self._site.url}
        return [
            Command([sys.executable, *line], folder, folder / "export.log", known)
            for line, known in ((words, environment), (pack, {}))
        ]

    def _follow(self, work: _Work) -> None:
        code = work.process.poll()
        if code is None:
            if self._clock() >= self._next_beat:
                self._next_beat = self._clock() + BEAT_S
                self._exports.beat(work.order, self._name)
            return
        if code == 0 and work.steps:
            work.process = self._start(work.steps.pop(0))
            return
        said = work.process.last_words()
        written = _written(said) if code == 0 else Written(why=said or f"code {code}")
        self._exports.ended(work.order, self._name, written)
        self._work = None

    def _give_back(self) -> None:
        if self._work is None:
            return
        self._work.process.kill()
        try:
            self._exports.release(self._work.order, self._name)
        except (ClaimLostError, StoreUnreachableError) as error:
            _logger.warning("%s", error)


def _written(said: str) -> Written:
    found = json.loads(said)
    return Written(int(found["size_bytes"]), str(found["fingerprint"]))
