"""The Ray actor: one GPU slot, one living engine, no opinions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from evomerge import logs
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

if TYPE_CHECKING:
    from evomerge.cluster.goods import Stock
    from evomerge.cluster.on_node import Lacking


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

    def start(
        self, setup: WorkerSetup, stock: Stock | None = None, courier: Any = None
    ) -> WorkerReady | WorkerLost | Lacking:
        """Bring the engine up and describe the tasks.

        Args:
            setup: What it is made of, as the coordinator's machine has it.
            stock: What this node can be brought of it; None on that machine itself.
            courier: The actor that brings it, if it was asked for before.

        Returns:
            ``WorkerLost`` if it failed; with ``futile`` set if another worker here
            would fail alike. ``Lacking`` if a courier is needed.
        """
        if logs.is_json():
            logs.set_up()  # the plain lines are those of a process without any
        from evomerge.cluster.courier import fetch_by
        from evomerge.cluster.on_node import Lacking, settle
        from evomerge.scoring.evaluator import Evaluator

        try:
            if stock is not None:
                fetch = None if courier is None else fetch_by(courier)
                settled = settle(setup, stock, fetch)
                if isinstance(settled, Lacking):
                    return settled
                setup = settled
            self._evaluator = Evaluator(setup)
            return self._evaluator.ready(self._name)
        except Exception as error:  # noqa: BLE001 - a worker's outermost call
            return failed_start(self._name, error)

    def run(
        self, assignment: Assignment
    ) -> Iterator[tuple[BlockScored | AttemptDone | AttemptFailed, ...]]:
        """Score an assignment, answering call by call of the engine."""
        yield from self._evaluator.answers(self._name, assignment)

    def pid(self) -> int:
        """Return the process id; fault tests kill it."""
        return os.getpid()

    def stop(self) -> None:
        """Close the engine before the actor goes."""
        self._evaluator.close()
