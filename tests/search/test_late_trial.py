"""A trial that takes many times as long as others and is begun among the last.

The real lifecycle with pretended workers, in virtual time and without a store.
"""

import heapq
from collections import deque

import numpy as np
import pytest

from evomerge.core.flow.stacks import passthrough
from evomerge.core.scoring_protocol import (
    Item,
    ItemRole,
    Manifest,
    Outcome,
    ScoringProtocol,
    TaskDescription,
)
from evomerge.core.trial import Candidate, Trial
from evomerge.core.work import Assignment, AttemptDone, BlockScored
from evomerge.search.attempt import RetryPolicy
from evomerge.search.lifecycle import Lifecycle
from evomerge.search.messages import (
    AttemptBegan,
    BeginAttempt,
    GenerationBegan,
    OutcomesRead,
    ReadOutcomes,
    Submit,
    TasksDescribed,
    Tick,
    WorkerIdle,
)
from evomerge.search.portions import Portions
from evomerge.search.sharing import Sharing

N_BLOCKS, SWAP_S = 32, 5.0
ITEMS = tuple(Item(f"{i:064d}", ItemRole.SEARCH, i) for i in range(N_BLOCKS))
TASK = TaskDescription(Manifest("t", ITEMS), ScoringProtocol("t", {}), ("loss",))


def answers(place, work: Assignment, pace: float) -> list[BlockScored]:
    """Return what a worker finds."""
    return [
        BlockScored(
            *place, block, (Outcome(ITEMS[block.index].id, {"loss": 0.0}),), pace
        )
        for block in work.blocks
    ]


def trials(n_trials: int) -> tuple[Trial, ...]:
    """Return pending trials of different recipes."""
    return tuple(
        Trial(n, Candidate(1, n, passthrough("a", f"b{n}", 2, "float32"), {}))
        for n in range(n_trials)
    )


def makespan(paces: list[float], n_workers: int) -> tuple[float, float]:
    """Return when all is done, and the time that workers were at something."""
    portions = Portions(n_measured=0)
    portions.measured([(1, 1, 1.0), (31, 31, 31.0)])
    life = Lifecycle(1e9, RetryPolicy(), sharing=Sharing(portions=portions))
    life.handle(TasksDescribed((TASK,)))
    life.handle(GenerationBegan(trials(len(paces))))
    now = busy = 0.0
    free = {f"w{i}": -1 for i in range(n_workers)}  # and what each was at last
    due: list = []

    def feed(event):
        nonlocal busy
        events = deque([event])
        while events:
            for done in life.handle(events.popleft()):
                match done:
                    case ReadOutcomes(trial):
                        events.append(OutcomesRead(trial, {"t": {}}))
                    case BeginAttempt(trial):
                        events.append(AttemptBegan(trial, 1, now))
                    case Submit(worker, work):
                        swap_s = SWAP_S * (free.pop(worker) != work.trial)
                        took = swap_s + paces[work.trial] * len(work.blocks)
                        busy += took
                        heapq.heappush(due, (now + took, worker, swap_s, work))

    while not life.is_complete:
        for worker in sorted(free, key=lambda name: not life.holds(name)):
            feed(WorkerIdle(worker, is_alone=False))
        now, worker, swap_s, work = heapq.heappop(due)
        free[worker] = work.trial
        place = (worker, work.trial, work.attempt)
        for event in (*answers(place, work, paces[work.trial]), Tick(now)):
            feed(event)
        feed(AttemptDone(*place, {"swap": swap_s, "score": 0.0}))
    return now, busy


@pytest.mark.parametrize("at", [280, 330, 399])
def test_workers_share_it_out_in_time(at: int) -> None:
    # 200 workers, 400 trials of 100 s on average; one of 860 s, a block of it 27 s.
    rng = np.random.default_rng(3)
    paces = [
        100 * float(np.exp(0.5 * z - 0.125)) / N_BLOCKS for z in rng.normal(size=400)
    ]
    paces[at] = 860 / N_BLOCKS
    seconds, busy = makespan(paces, 200)
    # Alone it would have taken until 900 s; all together need 215.
    assert 1 - busy / (200 * seconds) < 0.05
