"""Best, front and pace of a running study."""

from dataclasses import replace

from evomerge.core.flow.stacks import passthrough
from evomerge.core.study import Budget, Constraint, Direction, Measure, Objective
from evomerge.core.trial import (
    Blame,
    Candidate,
    Cause,
    Failure,
    Precision,
    Record,
    Trial,
    TrialState,
)
from evomerge.search.scoreboard import Ahead, Scoreboard

RECIPE = passthrough("a", "fp", 2, "float32")


def objective(name: str, direction: Direction) -> Objective:
    return Objective(name, direction, (Measure("t", name),), (1.0,))


ACC = objective("acc", Direction.MAXIMIZE)
TOKENS = objective("tokens", Direction.MINIMIZE)


def scored(number: int, acc: float, tokens: float, *, generation: int = 1) -> Record:
    candidate = Candidate(generation, number, RECIPE, label=f"s{number}")
    scores = {"t/acc": acc, "t/tokens": tokens}
    return Trial(number, candidate, TrialState.SCORED, scores=scores).record()


def test_the_front_keeps_what_no_other_dominates() -> None:
    board = Scoreboard([ACC, TOKENS], [])
    for trial in (scored(0, 0.5, 9), scored(1, 0.6, 8), scored(2, 0.4, 2)):
        board.add(trial)
    assert [standing.number for standing in board.front] == [1, 2]


def test_the_best_follows_each_objectives_direction() -> None:
    board = Scoreboard([ACC, TOKENS], [])
    for trial in (scored(0, 0.5, 9), scored(1, 0.6, 8), scored(2, 0.4, 2)):
        board.add(trial)
    best = board.progress(
        generation=1, running=0, workers=1, ahead=Ahead(Budget(trials=9))
    ).best
    assert [b.number for b in best if b] == [1, 2]


def test_an_infeasible_trial_is_neither_best_nor_on_the_front() -> None:
    limit = Constraint(TOKENS, 5.0)
    board = Scoreboard([ACC], [limit])
    board.add(scored(0, 0.9, 9))
    board.add(scored(1, 0.2, 4))
    assert [standing.number for standing in board.front] == [1]


def test_a_bound_relative_to_a_baseline_follows_its_score() -> None:
    at_most_two_points_below = Constraint(ACC, -0.02, relative_to="s0")
    board = Scoreboard([TOKENS], [at_most_two_points_below])
    board.add(scored(0, 0.50, 9, generation=0))
    board.add(scored(1, 0.49, 5))
    board.add(scored(2, 0.40, 1))
    assert [standing.number for standing in board.front] == [1]


def test_baselines_do_not_count_as_done_and_failures_do() -> None:
    board = Scoreboard([ACC], [])
    board.add(scored(0, 0.5, 1, generation=0))
    failure = Failure(Cause.NON_FINITE, Blame.CANDIDATE, "NaN")
    failed = replace(
        scored(1, 0, 0), state=TrialState.FAILED, scores=None, failure=failure
    )
    board.add(failed)
    progress = board.progress(generation=1, running=0, workers=1, ahead=Ahead(Budget()))
    assert (progress.done, progress.failed) == (1, 1)


def test_the_time_left_is_extrapolated_from_this_run() -> None:
    now = [0.0]
    board = Scoreboard([ACC], [], clock=lambda: now[0])
    board.add(scored(0, 0.5, 1), is_new=False)
    now[0] = 10.0
    board.add(scored(1, 0.5, 1))
    progress = board.progress(
        generation=1, running=0, workers=1, ahead=Ahead(Budget(trials=12))
    )
    assert progress.left_s == 100.0


def test_the_time_left_counts_neither_starting_up_nor_baselines_twice() -> None:
    now = [0.0]
    board = Scoreboard([ACC], [], clock=lambda: now[0])
    now[0] = 100.0  # an engine came up
    board.begin_work()
    now[0] = 110.0
    board.add_items(50)
    board.add(scored(0, 0.5, 1, generation=0))
    first = board.progress(
        generation=0,
        running=1,
        workers=1,
        ahead=Ahead(Budget(trials=12), 50, 3),
    )
    assert (first.left_s, first.trial_s, first.items_per_s) == (150.0, 10.0, 5.0)
    now[0] = 115.0
    board.begin_work()  # of a second worker
    board.add_items(25)
    half = board.progress(
        generation=0,
        running=1,
        workers=1,
        ahead=Ahead(Budget(trials=12), 50, 3),
    )
    assert (half.left_s, half.trial_s) == (145.0, 10.0)


def partial(number: int, acc: float, generation: int, n_items: int = 10) -> Record:
    precision = Precision({"t/acc": 0.1, "t/tokens": 1.0}, n_items, 40)
    record = replace(scored(number, acc, 9.0, generation=generation), label=None)
    return replace(record, precision=precision)


def test_what_answered_some_of_the_items_leads_its_generation_and_is_never_best() -> (
    None
):
    board = Scoreboard([ACC], [])
    board.add(scored(0, 0.4, 9, generation=0))
    for trial in (partial(1, 0.9, 1), partial(2, 0.8, 1)):
        board.add(trial)
    (best,) = board.best
    assert best is not None
    assert best.number == 0
    assert [standing.number for standing in board.front] == [0]
    assert board.leader is not None
    assert (board.leader.number, board.leader.errors) == (1, (0.1,))
    board.add(partial(3, 0.5, 2))
    assert board.leader.number == 3
    board.add(replace(partial(4, 0.7, 3, n_items=40), final_of=1))
    (best,) = board.best
    assert best is not None
    assert (best.number, best.label, best.is_selected) == (4, "final of 1", True)
    shown = board.progress(
        generation=3, running=0, workers=1, ahead=Ahead(Budget(trials=9))
    )
    assert (shown.done, shown.n_finals) == (3, 1)
