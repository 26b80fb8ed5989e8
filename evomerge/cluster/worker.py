"""The Ray actor: one GPU slot, one living engine, no opinions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from evomerge.cluster.report import report_of_worker
from evomerge.cluster.start import failed_start
from evomerge.core.work import (
    Assignment,
    AttemptDone,
    AttemptFailed,
    BlockScored,
    WorkerLost,
    WorkerReady,
    WorkerSetup,
)


class Worker:
    """Runs in a process of its own; Ray makes an actor of it.

    First it is asked for its report, which any version of evomerge can give and read,
    then for a call back. Heavy libraries load in ``start``, after Ray has set the
    process's environment.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def report(self) -> Mapping[str, Any]:
        """Say what this node has; see ``report``."""
        return report_of_worker()

    def call_back(self) -> Iterator[int]:
        """Answer twice, on the way that results take."""
        yield 0
        yield 1

    def start(self, setup: WorkerSetup) -> WorkerReady | WorkerLost:
        """Bring the engine up and describe the tasks.

        Returns:
            ``WorkerLost`` if it failed; with ``futile`` set if another worker here
            would fail alike.
        """
        from evomerge.scoring.evaluator import Evaluator

        try:
            self._evaluator = Evaluator(setup)
            return self._evaluator.ready(self._name)
        except Exception as error:  # noqa: BLE001 - a worker's outermost call
            return failed_start(self._name, error)

    def run(
        self, assignment: Assignment
    ) -> Iterator[BlockScored | AttemptDone | AttemptFailed]:
        """Score an assignment, answering block by block."""
        yield from self._evaluator.run(self._name, assignment)

    def pid(self) -> int:
        """Return the process id; fault tests kill it."""
        return os.getpid()

    def stop(self) -> None:
        """Close the engine before the actor goes."""
        self._evaluator.close()
