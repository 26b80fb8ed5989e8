"""Who is helped: what is kept of a look is what a look at all trials would find."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.core.cost import Speed
from evomerge.core.flow.stacks import passthrough
from evomerge.core.scoring_protocol import BlockKey, ItemRole
from evomerge.core.trial import Candidate, Trial, TrialState
from evomerge.search.attempt import Running, Way
from evomerge.search.portions import Portions
from evomerge.search.ranking import Ranking

N_BLOCKS = 12
STEPS = ("come", "hand out", "done", "go", "swap")


def running(number: int) -> Running:
    candidate = Candidate(1, number, passthrough("a", "a", 2, "float32"))
    trial = Trial(number, candidate, TrialState.RUNNING, 1)
    blocks = [BlockKey("t", ItemRole.SEARCH, i) for i in range(N_BLOCKS)]
    return Running(trial, {"t": {}}, blocks, Way(portion=2), N_BLOCKS)


def rank(now: Running, costs: Portions) -> float | None:
    """Return what is left of a trial, in seconds, and a block; None for no swap."""
    pace_s = now.block_s or costs.block_s
    if pace_s is None:
        return None
    in_hand = sum(len(part.left) for part in now.parts.values())
    n_left = (len(now.unstarted) + in_hand / 2) / max(1, len(now.parts))
    is_worth = n_left * pace_s > costs.swap_s + pace_s / 2
    return (n_left + 1) * pace_s if is_worth else None


@pytest.mark.parametrize("seed", range(20))
def test_who_would_be_done_last_is_found_whatever_happened_before(seed: int) -> None:
    rng = np.random.default_rng(seed)
    trials: dict[int, Running] = {}
    ranking, costs = Ranking(trials), Portions()
    n_found = 0
    for step in range(400):
        what = str(rng.choice(STEPS))
        chosen = trials[int(rng.choice(list(trials)))] if trials else None
        if what == "come" or chosen is None:
            chosen = trials[step] = running(step)
        elif what == "hand out" and chosen.unstarted:
            chosen.hand_out(f"w{step}", 10.0, None)
        elif what == "done" and chosen.parts:
            part = chosen.parts.pop(next(iter(chosen.parts)))
            seconds = float(rng.choice((0.5, 1.0, 4.0))) * len(part.blocks)
            chosen.clock = Speed(0, chosen.clock.seconds + seconds)
            chosen.done(part, {})
            costs.scored([seconds / len(part.blocks)])
        elif what == "go" and len(trials) > 8:
            del trials[chosen.trial.number]
        elif what == "swap":
            costs.swapped(float(rng.choice((0.1, 2.0, 9.0))))
        ranking.change(chosen.trial.number)
        shut = {int(n) for n in rng.choice(list(trials), int(rng.integers(3)))}
        found = ranking.last(costs, shut.__contains__, 0.0)
        ranks = {n: rank(now, costs) for n, now in trials.items() if n not in shut}
        last = max((one for one in ranks.values() if one is not None), default=None)
        mine = None if found is None else ranks[found.trial.number]
        assert mine == (None if last is None else pytest.approx(last))
        n_found += found is not None
    assert n_found > 100


def test_the_slower_of_two_that_have_as_much_left_is_helped_first() -> None:
    slow, fast = running(1), running(0)
    costs = Portions()
    costs.swapped(1.0)
    for now, pace_s in ((slow, 3.0), (fast, 1.0)):
        part = now.hand_out(f"w{pace_s}", 10.0, None)
        del now.parts[part.worker]
        now.clock = Speed(0, pace_s * 2)
        now.done(part, {})
        costs.scored([pace_s, pace_s])
    for _ in range(2):
        slow.unstarted.pop()  # 8 blocks of 3 s
    fast.unstarted += running(2).unstarted * 2  # 34 blocks of 1 s
    trials = {0: fast, 1: slow}
    ranking = Ranking(trials)
    for number in trials:
        ranking.change(number)
    assert ranking.last(costs, lambda number: False, 0.0) is fast
    del fast.unstarted[25:]  # 25 s against 24 s, and a block of 3 s
    ranking.change(0)
    assert ranking.last(costs, lambda number: False, 0.0) is slow


def test_a_trial_of_which_nothing_comes_for_long_is_taken_for_a_slow_one() -> None:
    costs = Portions()
    costs.swapped(5.0)
    costs.scored([2.0, 2.0])
    late, known = running(0), running(1)
    late.hand_out("w0", 1e3, 0.0, is_small=True)  # a swap and a block
    part = known.hand_out("w1", 1e3, 0.0)
    del known.parts[part.worker]
    known.clock = Speed(0, 8.0)  # 4 s a block
    known.done(part, {})
    trials = {0: late, 1: known}
    ranking = Ranking(trials)
    for number in trials:
        ranking.change(number)

    def last(now: float) -> Running | None:
        return ranking.last(costs, lambda number: False, now)

    assert last(7.0) is known
    assert last(40.0) is late  # 35 s for a block


def test_one_whose_first_part_has_ended_is_ranked_by_what_it_took() -> None:
    costs = Portions()
    costs.scored([2.0, 2.0])
    slow = running(0)
    part = slow.hand_out("w0", 1e3, 0.0)
    ranking = Ranking({0: slow})
    ranking.change(0)
    assert ranking.last(costs, lambda number: False, 100.0) is slow
    del slow.parts[part.worker]
    slow.clock = Speed(0, 200.0)
    slow.done(part, {})
    ranking.change(0)
    assert ranking.last(costs, lambda number: False, 200.0) is slow
