"""Run the small study in a process that kills itself after so many pool events.

``python -m evomerge.testing.doomed DATABASE CACHE STRATEGY N_TRIALS KILL_AT``: the
process dies by SIGKILL at the given event (0: never), in the middle of whatever the
coordinator was about to do with it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from evomerge.cluster.inprocess import InProcessPool
from evomerge.core.study import Budget, StrategySettings
from evomerge.core.work import PoolEvent
from evomerge.scoring.evaluator import Evaluator
from evomerge.search.coordinator import Coordinator
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store
from evomerge.testing.search import SmallStudy


def doomed_study(strategy: str, n_trials: int) -> SmallStudy:
    """Return the study that is killed: with failing candidates among the others."""
    return SmallStudy(
        StrategySettings(strategy, 5),
        Budget(trials=n_trials),
        options={"fail_if": 0.15},
        objectives=("x", "y") if strategy == "nsga2" else ("x",),
    )


class DoomedPool(InProcessPool):
    """Kills its own process at the n-th event, after the event happened."""

    kill_at = 0

    def poll(self, timeout_s: float) -> Sequence[PoolEvent]:
        """Do the next piece of work, or die."""
        events = super().poll(timeout_s)
        for _ in events:
            DoomedPool.kill_at -= 1
            if DoomedPool.kill_at == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return events


def main(arguments: Sequence[str]) -> None:
    """Create or resume the study."""
    database, cache, strategy, n_trials, kill_at = arguments
    small = doomed_study(strategy, int(n_trials))
    setup = small.setup(Path(cache))
    DoomedPool.kill_at = int(kill_at)
    store = open_store(database)
    plan = small.plan()
    if not store.studies():
        store.create_study(plan.name, {}, {}, plan.seed)
    pool = DoomedPool(lambda: Evaluator(setup))
    Coordinator(plan, store, pool, this_process()).run()
    store.close()


if __name__ == "__main__":
    main(sys.argv[1:])
