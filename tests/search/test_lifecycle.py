"""What comes of events: who gets work, which answers count, and what ends when."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from evomerge.core.scoring_protocol import BlockKey, Outcome
from evomerge.core.trial import (
    Blame,
    Candidate,
    Cause,
    Failure,
    Precision,
    Trial,
    TrialState,
)
from evomerge.core.work import (
    Assignment,
    AttemptDone,
    AttemptFailed,
    BlockScored,
    WorkerLost,
    WorkerReady,
)
from evomerge.errors import IllegalTransitionError
from evomerge.search.attempt import Part, RetryPolicy, Way
from evomerge.search.lifecycle import Lifecycle
from evomerge.search.messages import (
    AttemptBegan,
    BeginAttempt,
    EndAttempt,
    EndTrial,
    GenerationBegan,
    GiveUp,
    Instruction,
    MovePart,
    OutcomesRead,
    ReadOutcomes,
    RecordBlock,
    Reuse,
    StopWorker,
    Submit,
    TasksDescribed,
    Tick,
    WorkerIdle,
)
from evomerge.search.portions import Portions
from evomerge.search.required_items import Known
from evomerge.search.sharing import Sharing
from evomerge.store.base import AttemptEnd, Ending, PartBegun, PartEnded
from evomerge.testing.store_samples import N_BLOCKS, TASK, a_recipe, answers, task
from evomerge.testing.store_samples import search_block as block

POLICY = RetryPolicy(faults=3)
LOST = Failure(Cause.WORKER_LOST, Blame.MACHINE, "gone")
NAN = Failure(Cause.NON_FINITE, Blame.CANDIDATE, "NaN in lm_head.weight")
TIMEOUT_S = 10.0
BLOCKS = tuple(block(k) for k in range(N_BLOCKS))
SCORES = {"t/acc": 1.0, "t/tokens": 7.0, "t/truncated": 1 / 6}
PRECISION = Precision(
    {"t/acc": 0.0, "t/tokens": 0.0, "t/truncated": math.sqrt(5 / 36 / 11)}, 12, 12
)


def trial(number: int = 0, *, weight: float = 0.5, **known: Any) -> Trial:
    return Trial(number, Candidate(1, number, a_recipe(weight)), **known)


def lifecycle(
    *trials: Trial, strays: Sequence[Part] = (), sharing: Sharing | None = None
) -> Lifecycle:
    life = Lifecycle(TIMEOUT_S, POLICY, strays=strays, sharing=sharing)
    life.handle(TasksDescribed((task(),)))
    life.handle(GenerationBegan(trials))
    return life


def by_one() -> Sharing:
    """Give out one block at a time; one takes a second, as a swap does."""
    sharing = Sharing()
    sharing.portions.measured([(1, 10, 1.0), (9, 90, 9.0)])
    sharing.portions.scored([0.1])
    return sharing


def found(*blocks: BlockKey) -> Known:
    return {TASK: {o.item: o for one in blocks for o in answers(one)}}


def scored(one: BlockKey, worker: str = "w0", attempt: int = 1) -> BlockScored:
    return BlockScored(worker, 0, attempt, one, tuple(answers(one)), 0.1)


def start(
    life: Lifecycle, worker: str = "w0", *known: BlockKey, now: float = 0.0
) -> Assignment:
    """Give an idle worker its next trial."""
    (asked,) = life.handle(WorkerIdle(worker, is_alone=True))
    assert isinstance(asked, ReadOutcomes)
    (begin,) = life.handle(OutcomesRead(asked.trial, found(*known)))
    assert begin == BeginAttempt(asked.trial, worker)
    attempt = life.trials[asked.trial].attempt + 1
    begun, submit = life.handle(AttemptBegan(asked.trial, attempt, now))
    assert isinstance(submit, Submit)
    assert submit.worker == worker
    part = PartBegun(1, worker, submit.assignment.blocks)
    assert begun == MovePart(asked.trial, attempt, None, part)
    return submit.assignment


def test_an_idle_worker_gets_what_is_missing() -> None:
    life = lifecycle(trial())
    given = start(life, "w0", block(1))
    assert given == Assignment(
        0, 1, a_recipe(0.5), (block(0), block(2)), timeout_s=TIMEOUT_S
    )
    (running,) = life.trials
    assert (running.state, running.attempt) == (TrialState.RUNNING, 1)
    assert running.worker == "w0"


def test_a_trial_of_which_all_is_known_is_reused_and_the_next_is_looked_at() -> None:
    life = lifecycle(trial(), trial(1, weight=0.4))
    life.handle(WorkerIdle("w0", is_alone=True))
    reuse, end, asked = life.handle(OutcomesRead(0, found(*BLOCKS)))
    assert reuse == Reuse(0, SCORES, PRECISION)
    assert end == EndTrial(
        replace(
            trial(),
            state=TrialState.SCORED,
            scores=SCORES,
            precision=PRECISION,
            reused=True,
        )
    )
    assert isinstance(asked, ReadOutcomes)
    assert asked.trial == 1


def test_blocks_are_recorded_as_they_come_and_the_last_answer_ends_the_trial() -> None:
    life = lifecycle(trial())
    start(life)
    for one in reversed(BLOCKS):
        (record,) = life.handle(scored(one))
        assert record == RecordBlock(0, 1, one, tuple(answers(one)))
    moved, end, final = life.handle(AttemptDone("w0", 0, 1, {"score": 0.3}))
    assert moved == MovePart(0, 1, PartEnded(1, AttemptEnd.SCORED), None)
    ending = Ending(
        TrialState.SCORED, SCORES, seconds={"score": 0.3}, precision=PRECISION
    )
    assert end == EndAttempt(0, 1, ending)
    assert final == EndTrial(life.trials[0])
    assert life.is_complete


def test_who_says_that_it_is_done_and_is_not_has_failed() -> None:
    life = lifecycle(trial())
    start(life)
    life.handle(scored(block(0)))
    moved, end = life.handle(AttemptDone("w0", 0, 1, {}))
    fault = PartEnded(1, AttemptEnd.FAULT, Cause.ENGINE)
    assert moved == MovePart(0, 1, fault, None)
    assert isinstance(end, EndAttempt)
    assert end.ending.state is TrialState.PENDING
    assert end.ending.failure is not None
    assert f"never reported {block(1)}" in end.ending.failure.message


def test_wrong_answers_stop_the_worker_and_are_not_recorded() -> None:
    life = lifecycle(trial())
    start(life)
    nan = [Outcome(o.item, {"acc": math.nan}) for o in answers(block(0))]
    wrong = replace(scored(block(0)), outcomes=tuple(nan))
    stop, moved, end, final = life.handle(wrong)
    assert stop == StopWorker("w0", 0, 1)
    failed = PartEnded(1, AttemptEnd.FAILED, Cause.EVALUATION)
    assert moved == MovePart(0, 1, failed, None)
    assert isinstance(end, EndAttempt)
    assert isinstance(final, EndTrial)
    assert final.trial.state is TrialState.FAILED


def test_a_block_that_comes_twice_is_recorded_once() -> None:
    life = lifecycle(trial())
    start(life)
    assert len(life.handle(scored(block(0)))) == 1
    assert life.handle(scored(block(0))) == []


def test_an_answer_of_an_older_attempt_or_of_another_worker_is_late() -> None:
    life = lifecycle(trial())
    start(life)
    life.handle(AttemptFailed("w0", 0, 1, LOST))
    start(life)
    assert life.handle(scored(block(0), attempt=1)) == []
    assert life.handle(scored(block(0), worker="w1", attempt=2)) == []
    assert life.handle(AttemptDone("w0", 7, 2, {})) == []
    assert len(life.handle(scored(block(0), attempt=2))) == 1


def test_an_attempt_number_never_repeats() -> None:
    life = lifecycle(trial(attempt=2))
    life.handle(WorkerIdle("w0", is_alone=True))
    life.handle(OutcomesRead(0, found()))
    with pytest.raises(IllegalTransitionError, match="the next must be larger"):
        life.handle(AttemptBegan(0, 2, 0.0))


def test_what_nobody_asked_for_is_no_answer() -> None:
    life = lifecycle(replace(trial(), state=TrialState.SCORED, scores={}))
    for answer in (OutcomesRead(0, found()), AttemptBegan(0, 5, 0.0)):
        with pytest.raises(IllegalTransitionError, match="nothing was asked for it"):
            life.handle(answer)


def test_a_generation_begins_with_nothing_running() -> None:
    with pytest.raises(IllegalTransitionError, match="made pending before"):
        lifecycle(trial(attempt=1, state=TrialState.RUNNING))
    life = lifecycle(trial())
    start(life)
    with pytest.raises(IllegalTransitionError, match="must be ended"):
        life.handle(GenerationBegan((trial(1),)))


def test_an_equal_recipe_waits_until_the_first_is_scored() -> None:
    life = lifecycle(trial(), trial(1))
    start(life)
    assert not life.has_work_for(())
    assert life.handle(WorkerIdle("w1", is_alone=False)) == []
    for one in BLOCKS:
        life.handle(scored(one))
    life.handle(AttemptDone("w0", 0, 1, {}))
    (waiting,) = life.handle(WorkerIdle("w1", is_alone=False))
    assert isinstance(waiting, ReadOutcomes)
    assert waiting.trial == 1


@pytest.mark.parametrize(
    ("worker", "is_alone", "number"),
    [("w1", False, 0), ("w0", False, 1), ("w0", True, 0)],
)
def test_a_retry_is_left_for_another_worker(
    worker: str, is_alone: bool, number: int
) -> None:
    life = lifecycle(trial(), trial(1, weight=0.4))
    start(life)
    _, end = life.handle(WorkerLost("w0", 0, 1, LOST))
    assert end == EndAttempt(0, 1, Ending(TrialState.PENDING, failure=LOST))
    (asked,) = life.handle(WorkerIdle(worker, is_alone))
    assert isinstance(asked, ReadOutcomes)
    assert asked.trial == number


def test_a_worker_at_work_is_given_nothing_more() -> None:
    life = lifecycle(trial(), trial(1, weight=0.4))
    start(life)
    assert life.handle(WorkerIdle("w0", is_alone=True)) == []


def test_who_takes_too_long_is_stopped_before_the_store_is_told_of_anybody() -> None:
    life = lifecycle(trial(), trial(1, weight=0.4))
    start(life, now=0.0)
    start(life, "w1", now=1.0)
    assert life.handle(Tick(9.9)) == []
    assert len(life.handle(Tick(10.0))) == 3
    again = lifecycle(trial(), trial(1, weight=0.4))
    start(again, now=0.0)
    start(again, "w1", now=1.0)
    *stops, _, first, _, second = again.handle(Tick(11.0))
    assert stops == [StopWorker("w0", 0, 1), StopWorker("w1", 1, 1)]
    assert isinstance(first, EndAttempt)
    assert isinstance(second, EndAttempt)
    assert first.ending.failure is not None
    assert first.ending.failure.cause is Cause.TIMEOUT


def test_who_is_still_at_an_attempt_of_before_is_stopped_in_time() -> None:
    before = lifecycle(trial())
    start(before, now=3.0)
    life = lifecycle(trial(attempt=1), strays=before.in_flight)
    assert life.handle(scored(block(0))) == []
    assert life.handle(Tick(12.9)) == []
    assert life.handle(Tick(13.0)) == [StopWorker("w0", 0, 1)]
    assert life.handle(Tick(14.0)) == []
    assert life.trials == (trial(attempt=1),)


@pytest.mark.parametrize(
    "over",
    [
        AttemptDone("w0", 0, 1, {}),
        WorkerLost("w0", 0, 1, LOST),
        WorkerIdle("w0", False),
    ],
)
def test_who_is_done_with_an_attempt_of_before_is_left_alone(over: Any) -> None:
    before = lifecycle(trial())
    start(before)
    life = lifecycle(trial(attempt=1), strays=before.in_flight)
    life.handle(over)
    assert life.handle(Tick(99.0)) == []


def test_a_loss_that_another_worker_would_share_ends_the_run() -> None:
    life = lifecycle(trial())
    fatal = WorkerLost("w0", None, None, LOST, fatal=True)
    assert life.handle(fatal) == [GiveUp("gone")]
    assert life.handle(replace(fatal, fatal=False)) == []
    assert life.handle(WorkerReady("w1", (task(),), {})) == []


def shared(*trials: Trial) -> Lifecycle:
    return lifecycle(*(trials or (trial(),)), sharing=by_one())


def share(life: Lifecycle, worker: str = "w0") -> Assignment:
    """Give a worker the first part of the next trial; there are other workers."""
    (asked,) = life.handle(WorkerIdle(worker, is_alone=False))
    assert isinstance(asked, ReadOutcomes)
    life.handle(OutcomesRead(asked.trial, found()))
    attempt = life.trials[asked.trial].attempt + 1
    return given(life.handle(AttemptBegan(asked.trial, attempt, 0.0)))


def given(instructions: list[Instruction]) -> Assignment:
    moved, submit = instructions
    assert isinstance(moved, MovePart)
    assert isinstance(submit, Submit)
    return submit.assignment


def test_parts_of_a_trial_go_to_whoever_is_free_and_the_last_answer_ends_it() -> None:
    life = shared()
    assert share(life).blocks == (block(0),)
    assert given(life.handle(WorkerIdle("w1", False))).blocks == (block(1),)
    life.handle(scored(block(0)))
    ended = MovePart(0, 1, PartEnded(1, AttemptEnd.SCORED), None)
    done = AttemptDone("w0", 0, 1, {"swap": 1.0, "score": 0.1})
    assert life.handle(done) == [ended]
    assert life.holds("w0")
    assert given(life.handle(WorkerIdle("w0", False))).blocks == (block(2),)
    life.handle(scored(block(2)))
    assert len(life.handle(AttemptDone("w0", 0, 1, {"score": 0.1}))) == 1
    assert life.handle(WorkerIdle("w0", False)) == []
    life.handle(scored(block(1), "w1"))
    done = AttemptDone("w1", 0, 1, {"swap": 1.0, "score": 0.1})
    _, end, final = life.handle(done)
    seconds = {"swap": 2.0, "score": pytest.approx(0.3)}
    ending = Ending(TrialState.SCORED, SCORES, None, seconds, PRECISION)
    assert end == EndAttempt(0, 1, ending)
    assert isinstance(final, EndTrial)


def test_help_comes_only_where_it_would_be_in_time() -> None:
    life = shared()
    sharing = life._sharing
    share(life)
    sharing.portions.swapped(0.25)
    assert not life.has_work_for(())  # two blocks of 0.1 s, and half of one
    assert life.handle(WorkerIdle("w1", False)) == []
    sharing.portions.swapped(0.01)
    assert life.has_work_for(())
    assert len(life.handle(WorkerIdle("w1", False))) == 2


def test_who_can_go_on_has_work_where_a_helper_would_be_late() -> None:
    life = shared()
    life._sharing.portions.swapped(10.0)
    share(life)
    life.handle(scored(block(0)))
    life.handle(AttemptDone("w0", 0, 1, {}))
    assert given(life.handle(WorkerIdle("w1", False))).blocks == (block(1),)
    assert life.has_work_for(("w2", "w0"))
    assert not life.has_work_for(("w2",))
    assert life.handle(WorkerIdle("w2", False)) == []
    assert given(life.handle(WorkerIdle("w0", False))).blocks == (block(2),)


def test_who_helps_goes_where_most_is_left_once_no_trial_is_pending() -> None:
    life = shared(trial(), trial(1, weight=0.4))
    share(life)
    life.handle(scored(block(0)))
    life.handle(AttemptDone("w0", 0, 1, {}))
    assert given(life.handle(WorkerIdle("w0", False))).trial == 0
    assert share(life, "w1").trial == 1
    assert given(life.handle(WorkerIdle("w2", False))).trial == 1


def test_a_trial_whose_worker_is_gone_is_taken_up_before_a_pending_one() -> None:
    life = shared(trial(), trial(1, weight=0.4))
    share(life)
    life.handle(scored(block(0)))
    life.handle(AttemptDone("w0", 0, 1, {}))
    assert life.n_at_work == 0
    assert life.has_work_for(())
    assert given(life.handle(WorkerIdle("w1", False))).blocks == (block(1),)


def test_a_part_that_fails_loses_only_itself_and_counts_as_one_fault() -> None:
    life = shared()
    share(life)
    life.handle(WorkerIdle("w1", False))
    lost = MovePart(0, 1, PartEnded(2, AttemptEnd.FAULT, Cause.WORKER_LOST), None)
    assert life.handle(WorkerLost("w1", 0, 1, LOST)) == [lost]
    assert life.handle(WorkerIdle("w2", False)) == []  # nothing more goes out
    life.handle(scored(block(0)))
    again = replace(LOST, message="gone too")
    _, end = life.handle(WorkerLost("w0", 0, 1, again))
    assert end == EndAttempt(0, 1, Ending(TrialState.PENDING, failure=LOST))
    (left,) = life.trials
    assert left.faults == 1
    assert life.handle(WorkerIdle("w0", False)) == []  # it failed there last
    assert share(life, "w2").attempt == 2


def test_a_fault_of_the_candidate_counts_before_one_of_a_machine() -> None:
    life = shared()
    share(life)
    life.handle(WorkerIdle("w1", False))
    life.handle(WorkerLost("w1", 0, 1, LOST))
    *_, end, final = life.handle(AttemptFailed("w0", 0, 1, NAN))
    assert end == EndAttempt(0, 1, Ending(TrialState.FAILED, failure=NAN))
    assert isinstance(final, EndTrial)


def test_who_dies_after_its_last_block_spoils_nothing() -> None:
    life = shared()
    share(life)
    for part in (1, 2):
        life.handle(scored(block(part - 1)))
        life.handle(AttemptDone("w0", 0, 1, {}))
        life.handle(WorkerIdle("w0", False))
    life.handle(scored(block(2)))
    moved, end, _ = life.handle(WorkerLost("w0", 0, 1, LOST))
    assert moved == MovePart(
        0, 1, PartEnded(3, AttemptEnd.FAULT, Cause.WORKER_LOST), None
    )
    assert isinstance(end, EndAttempt)
    assert end.ending.state is TrialState.SCORED


def test_a_part_has_its_share_of_the_time_from_the_first_look_on() -> None:
    life = shared()
    share(life)
    limit_s = given(life.handle(WorkerIdle("w1", False))).timeout_s
    assert limit_s == pytest.approx(TIMEOUT_S / 3)
    assert life.handle(Tick(3.0)) == []
    stop, moved = life.handle(Tick(4.0))
    assert stop == StopWorker("w0", 0, 1)
    assert isinstance(moved, MovePart)
    assert life.handle(Tick(6.2)) == []
    assert life.handle(Tick(6.4))[0] == StopWorker("w1", 0, 1)


def test_nobody_begins_a_trial_that_the_budget_has_no_room_for() -> None:
    life = lifecycle(trial(), trial(1, weight=0.4))
    idle = WorkerIdle("w0", is_alone=False, room=life.n_items)
    (asked,) = life.handle(idle)
    assert isinstance(asked, ReadOutcomes)
    life.handle(OutcomesRead(0, found()))
    life.handle(AttemptBegan(0, 1, 0.0))
    assert life.n_owed == life.n_items
    life.handle(replace(idle, worker="w1"))
    assert life.handle(OutcomesRead(1, found())) == []
    assert life.lacks_room
    assert not life.has_work_for(())
    assert life.trials[1].state is TrialState.PENDING
    life.handle(scored(block(0)))
    life.handle(AttemptFailed("w0", 0, 1, NAN))
    assert life.has_work_for(())  # what was set aside for the failed one is free


def test_what_the_first_trials_take_tells_how_much_goes_out_at_once() -> None:
    portions = Portions()
    assert portions.growing(5) == ()
    assert portions.growing(32) == (1, 2, 4, 8, 17)
    found = [(1, 10, 2.0), (2, 20, 3.0), (4, 40, 4.3), (8, 80, 8.3), (17, 170, 17.0)]
    portions.measured(found)
    assert portions.size == 8
    assert portions.growing(6) == (1, 5)
    portions.measured([(1, 10, 0.01), (5, 50, 5.0)])
    assert portions.size == 1
    assert portions.growing(32) == ()
    none = Portions()
    none.measured([(2, 20, 9.0), (4, 40, 12.0)])
    assert none.size is None


def test_a_trial_whose_speed_counts_is_one_part_in_one_call() -> None:
    sharing = by_one()
    assert sharing.way(32, is_timed=True, is_alone=False) == Way()
    old = Sharing(times_by_block=True)
    assert old.way(3, is_timed=True, is_alone=False) == Way(calls=(1, 1, 1))


WORKERS = ("w0", "w1", "w2")
PICK = st.integers(0, 10**6)
OUT, RECORDED, RELEASED = "handed out", "recorded", "released"


def at_of(done: EndAttempt) -> tuple[int, int]:
    return done.trial, done.attempt


class AnyOrder(RuleBasedStateMachine):
    """The machine alone: store, pool and clock are played, and answer when they like.

    Of four trials two have one recipe. The store is asked one thing at a time for each
    trial, but answers those of several in any order.
    """

    def __init__(self) -> None:
        super().__init__()
        weights = (0.1, 0.2, 0.3, 0.3)
        self.stored = [trial(n, weight=weight) for n, weight in enumerate(weights)]
        self.known: dict[str, Known] = {
            one.candidate.recipe.digest: found() for one in self.stored
        }
        self.questions: list[ReadOutcomes | BeginAttempt] = []
        self.at: dict[str, Assignment] = {}
        self.blocks: dict[tuple[int, int], dict[BlockKey, str]] = {}
        self.told: list[Any] = []
        self.counted: set[int] = set()
        self.parts: dict[tuple[int, int, int], AttemptEnd | None] = {}
        self.handed: dict[tuple[int, int, int], tuple[BlockKey, ...]] = {}
        self.now = 0.0
        self.sharing = by_one()
        self.life = lifecycle(*self.stored, sharing=self.sharing)

    def happen(self, event: Any) -> None:
        for instruction in self.life.handle(event):
            self.obey(instruction)

    def obey(self, instruction: Instruction) -> None:
        match instruction:
            case ReadOutcomes() | BeginAttempt():
                assert self.stored[instruction.trial].state is TrialState.PENDING
                asked = [question.trial for question in self.questions]
                assert instruction.trial not in asked
                self.questions.append(instruction)
            case Submit(worker, assignment):
                self.send(worker, assignment)
            case MovePart():
                self.move(instruction)
            case RecordBlock(number, attempt, one, outcomes):
                blocks = self.blocks[number, attempt]
                assert blocks[one] == OUT, "not handed out, or recorded or released"
                assert self.stored[number].attempt == attempt
                blocks[one] = RECORDED
                digest = self.stored[number].candidate.recipe.digest
                self.known[digest][TASK].update({o.item: o for o in outcomes})
            case StopWorker(worker, number, attempt):
                work = self.at.pop(worker)
                assert (work.trial, work.attempt) == (number, attempt)
            case EndAttempt():
                self.end(instruction)
            case Reuse(number, scores, precision):
                found = {"scores": scores, "precision": precision, "reused": True}
                self.put(number, TrialState.SCORED, **found)
                self.put_failure(number, None)
            case EndTrial(final):
                assert final.number not in self.counted
                self.counted.add(final.number)
                assert final == self.stored[final.number]

    def send(self, worker: str, work: Assignment) -> None:
        assert worker not in self.at, "a worker is at something else"
        blocks = self.blocks.setdefault((work.trial, work.attempt), {})
        again = blocks.keys() & set(work.blocks)
        assert not again, "a block is handed out twice in an attempt"
        self.at[worker] = work
        blocks.update(dict.fromkeys(work.blocks, OUT))

    def move(self, moved: MovePart) -> None:
        assert self.stored[moved.trial].attempt == moved.attempt
        if moved.ended is not None:
            which = (moved.trial, moved.attempt, moved.ended.part)
            assert self.parts[which] is None
            self.parts[which] = moved.ended.end
            released = self.release(*which[:2], self.handed[which])
            assert not (released and moved.ended.end is AttemptEnd.SCORED)
        if moved.begun is not None:
            which = (moved.trial, moved.attempt, moved.begun.part)
            assert which not in self.parts
            self.parts[which] = None
            self.handed[which] = moved.begun.blocks

    def end(self, done: EndAttempt) -> None:
        stored, ending = self.stored[done.trial], done.ending
        assert (stored.state, stored.attempt) == (TrialState.RUNNING, done.attempt)
        at = {(work.trial, work.attempt) for work in self.at.values()}
        assert (done.trial, done.attempt) not in at, "somebody is at it still"
        ends = [e for (*of, _), e in self.parts.items() if of == [*at_of(done)]]
        assert ends
        assert None not in ends, "a part of it is open"
        out = [*self.blocks[done.trial, done.attempt].values()].count(OUT)
        assert not out, "a block of it is with nobody"
        is_fault = ending.failure is not None and ending.failure.blame is Blame.MACHINE
        self.put(
            done.trial,
            ending.state,
            scores=ending.scores,
            precision=ending.precision,
            seconds=ending.seconds,
            faults=stored.faults + is_fault,
        )
        self.put_failure(done.trial, ending.failure)

    def put(self, number: int, state: TrialState, **columns: Any) -> None:
        stored = self.stored[number]
        self.stored[number] = replace(stored, state=stored.state.to(state), **columns)

    def put_failure(self, number: int, failure: Failure | None) -> None:
        self.stored[number] = replace(self.stored[number], failure=failure)

    def release(self, number: int, attempt: int, of: Iterable[BlockKey]) -> int:
        blocks = self.blocks[number, attempt]
        out = [one for one in of if blocks.get(one) == OUT]
        blocks.update(dict.fromkeys(out, RELEASED))
        return len(out)

    def tell(self, event: Any) -> None:
        self.told.append(event)
        self.happen(event)

    def busy(self, pick: int) -> tuple[tuple[str, int, int], Assignment]:
        worker = sorted(self.at)[pick % len(self.at)]
        work = self.at[worker]
        return (worker, work.trial, work.attempt), work

    @rule(worker=st.sampled_from(WORKERS), is_alone=st.booleans())
    def a_worker_is_idle(self, worker: str, is_alone: bool) -> None:
        if worker not in self.at:
            self.happen(WorkerIdle(worker, is_alone))

    @precondition(lambda self: self.questions)
    @rule(pick=PICK)
    def the_store_answers(self, pick: int) -> None:
        question = self.questions.pop(pick % len(self.questions))
        number = question.trial
        if isinstance(question, ReadOutcomes):
            known = self.known[question.recipe.digest]
            copy = {name: dict(of) for name, of in known.items()}
            self.happen(OutcomesRead(number, copy))
            return
        attempt = self.stored[number].attempt + 1
        self.put(number, TrialState.RUNNING, attempt=attempt, worker=question.worker)
        self.happen(AttemptBegan(number, attempt, self.now))

    @precondition(lambda self: self.at)
    @rule(pick=PICK, which=PICK)
    def a_block_is_scored(self, pick: int, which: int) -> None:
        place, work = self.busy(pick)
        one = work.blocks[which % len(work.blocks)]
        self.tell(BlockScored(*place, one, tuple(answers(one)), 0.1))

    @precondition(lambda self: self.at)
    @rule(pick=PICK, which=PICK)
    def a_block_has_other_items(self, pick: int, which: int) -> None:
        place, work = self.busy(pick)
        one = work.blocks[which % len(work.blocks)]
        self.happen(BlockScored(*place, one, tuple(answers(one)[1:]), 0.1))

    @precondition(lambda self: self.at)
    @rule(pick=PICK, is_whole=st.booleans())
    def an_attempt_is_done(self, pick: int, is_whole: bool) -> None:
        place, work = self.busy(pick)
        for one in work.blocks if is_whole else ():
            self.tell(BlockScored(*place, one, tuple(answers(one)), 0.1))
        del self.at[place[0]]
        self.tell(AttemptDone(*place, {"score": 0.3}))

    @precondition(lambda self: self.at)
    @rule(pick=PICK, failure=st.sampled_from([LOST, NAN]), is_lost=st.booleans())
    def an_attempt_fails(self, pick: int, failure: Failure, is_lost: bool) -> None:
        place, _ = self.busy(pick)
        del self.at[place[0]]
        self.tell((WorkerLost if is_lost else AttemptFailed)(*place, failure))

    @precondition(lambda self: self.told)
    @rule(pick=PICK)
    def an_answer_comes_again(self, pick: int) -> None:
        event = self.told[pick % len(self.told)]
        if isinstance(event, BlockScored) or event.worker not in self.at:
            self.happen(event)

    @rule(seconds=st.floats(0.1, TIMEOUT_S))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.happen(Tick(self.now))

    @rule()
    def the_next_hold_begins(self) -> None:
        """After an outage; what was asked of the store is forgotten."""
        self.questions.clear()
        for stored in self.stored:
            if stored.state is TrialState.RUNNING:
                every = self.blocks[stored.number, stored.attempt]
                self.release(stored.number, stored.attempt, every)
                self.put(stored.number, TrialState.PENDING)
        self.life = lifecycle(
            *self.stored, strays=self.life.in_flight, sharing=self.sharing
        )

    @invariant()
    def the_machine_is_valid_and_holds_what_the_store_holds(self) -> None:
        self.life.validate()
        assert list(self.life.trials) == self.stored

    @invariant()
    def every_block_handed_out_is_still_out_or_recorded_or_released(self) -> None:
        left: dict[tuple[int, int], set[BlockKey]] = {}
        for part in self.life.in_flight:
            left.setdefault((part.trial, part.attempt), set()).update(part.left)
        for (number, attempt), blocks in self.blocks.items():
            stored, out = self.stored[number], {b for b in blocks if blocks[b] == OUT}
            is_running = stored.state is TrialState.RUNNING
            if is_running and stored.attempt == attempt:
                assert left.get((number, attempt), set()) == out
            else:
                assert not out

    @invariant()
    def whoever_is_at_something_will_be_stopped_in_time(self) -> None:
        at = {(w, work.trial, work.attempt) for w, work in self.at.items()}
        flying = {(p.worker, p.trial, p.attempt) for p in self.life.in_flight}
        assert at == flying

    @invariant()
    def faults_and_states_agree(self) -> None:
        for one in self.stored:
            assert one.faults <= POLICY.faults
            is_tired = one.state is TrialState.QUARANTINED
            assert is_tired == (one.faults == POLICY.faults and one.state.is_final)

    def teardown(self) -> None:
        """If all goes well from here on, the generation ends."""
        for _ in range(40):
            while self.questions:
                self.the_store_answers(0)
            while self.at:
                self.an_attempt_is_done(0, is_whole=True)
            for worker in WORKERS:
                self.happen(WorkerIdle(worker, is_alone=True))
        assert self.life.is_complete
        assert self.counted == {one.number for one in self.stored}


TestAnyOrder = AnyOrder.TestCase
