import errno
from dataclasses import replace

import pytest

from evomerge.core.flow.stacks import passthrough
from evomerge.core.scoring_protocol import BlockKey, ItemRole
from evomerge.core.trial import Blame, Cause
from evomerge.core.work import (
    Assignment,
    AttemptDone,
    AttemptFailed,
    BlockScored,
    EngineSettings,
    TaskSettings,
    WorkerSetup,
)
from evomerge.errors import CandidateError, RequestError, SpecError, WorkerError
from evomerge.scoring.evaluator import Evaluator
from evomerge.scoring.failures import failure_from

RECIPE = passthrough("a", "fa", 2, "float32")


def evaluator(tmp_path, **options):
    tasks = (
        TaskSettings("sums", "simulated", n_blocks=2, options=options),
        TaskSettings("words", "simulated"),
    )
    engine = EngineSettings(kind="simulated")
    return Evaluator(WorkerSetup(engine, tasks, {}, "fa", None, str(tmp_path)))


def search_blocks(worker):
    tasks = worker.ready("w").tasks
    return tuple(b for t in tasks for b in t.manifest.blocks(ItemRole.SEARCH))


def assignment(worker, timeout_s=60.0):
    return Assignment(7, 3, RECIPE, search_blocks(worker), timeout_s)


def test_every_block_is_answered_before_the_attempt_is_done(tmp_path):
    worker = evaluator(tmp_path)
    *scored, done = worker.run("w", assignment(worker))
    assert [event.block for event in scored] == list(search_blocks(worker))
    assert all(isinstance(event, BlockScored) for event in scored)
    assert isinstance(done, AttemptDone)
    assert set(done.seconds) == {"materialise", "swap", "score"}
    assert {(e.worker, e.trial, e.attempt) for e in (*scored, done)} == {("w", 7, 3)}


def test_outcomes_come_in_the_order_of_the_manifest(tmp_path):
    worker = evaluator(tmp_path)
    manifest = worker.ready("w").tasks[0].manifest
    first = next(iter(worker.run("w", assignment(worker))))
    assert tuple(o.item for o in first.outcomes) == manifest.ids(first.block)


def test_ready_describes_tasks_in_the_order_of_the_setup(tmp_path):
    ready = evaluator(tmp_path).ready("w")
    assert [task.manifest.task for task in ready.tasks] == ["sums", "words"]
    assert ready.facts["engine"]["kind"] == "simulated"
    assert ready.facts["start_s"] > 0


def test_candidate_at_fault_ends_the_attempt_and_the_worker_lives_on(tmp_path):
    worker = evaluator(tmp_path, fail_if=1.0)
    (failed,) = worker.run("w", assignment(worker))
    assert isinstance(failed, AttemptFailed)
    assert failed.failure.cause is Cause.NON_FINITE
    assert failed.failure.blame is Blame.CANDIDATE
    words = replace(assignment(worker), blocks=search_blocks(worker)[2:])
    assert isinstance([*worker.run("w", words)][-1], AttemptDone)


def test_blocks_before_a_machine_fault_are_kept(tmp_path):
    worker = evaluator(tmp_path, break_if=1.0, fault_block=1)
    first, failed = worker.run("w", assignment(worker))
    assert isinstance(first, BlockScored)
    assert failed.failure.cause is Cause.ENGINE
    assert failed.failure.blame is Blame.MACHINE


def test_what_was_swapped_in_and_nothing_failed_on_is_not_swapped_in_again(tmp_path):
    worker = evaluator(tmp_path, break_if=1.0, fault_block=1, fault_times=1)
    swaps = []
    swap = worker._engine.swap
    worker._engine.swap = lambda recipe: swaps.append(recipe) or swap(recipe)
    given = assignment(worker)
    for number, n_swaps in ((1, 1), (2, 2), (3, 2)):  # the first attempt breaks
        *_, last = worker.run("w", replace(given, attempt=number))
        assert isinstance(last, AttemptFailed if number == 1 else AttemptDone)
        assert len(swaps) == n_swaps
    worker.score(RECIPE, given.blocks[:1])
    assert len(swaps) == 3


def test_time_limit_is_seen_between_blocks(tmp_path):
    worker = evaluator(tmp_path, sleep_s=0.05)
    first, failed = worker.run("w", assignment(worker, timeout_s=0.02))
    assert isinstance(first, BlockScored)
    assert failed.failure.cause is Cause.TIMEOUT
    assert "the limit is 0.02 s" in failed.failure.message


def test_unknown_task_in_an_assignment_is_no_fault_of_the_candidate(tmp_path):
    worker = evaluator(tmp_path)
    wrong = replace(
        assignment(worker), blocks=(BlockKey("nothing", ItemRole.SEARCH, 0),)
    )
    (failed,) = worker.run("w", wrong)
    assert failed.failure.blame is Blame.MACHINE
    assert "no task 'nothing'" in failed.failure.message


def test_report_items_are_scored_outside_any_trial(tmp_path):
    worker = evaluator(tmp_path)
    manifests = [task.manifest for task in worker.ready("w").tasks]
    blocks = [b for m in manifests for b in m.blocks(ItemRole.REPORT)]
    outcomes = worker.score(RECIPE, blocks)
    items = [i.id for m in manifests for i in m.items if i.role is ItemRole.REPORT]
    assert [outcome.item for outcome in outcomes] == items


def test_error_outside_a_trial_comes_through(tmp_path):
    worker = evaluator(tmp_path, fail_if=1.0)
    with pytest.raises(CandidateError):
        worker.score(RECIPE, search_blocks(worker))


def test_two_tasks_of_one_name_are_refused(tmp_path):
    tasks = (TaskSettings("sums", "simulated"),) * 2
    setup = WorkerSetup(EngineSettings("simulated"), tasks, {}, "f", None, "unused")
    with pytest.raises(SpecError, match="two tasks have this name"):
        Evaluator(setup)


class OutOfMemoryError(RuntimeError):
    """Named as torch names its own."""


@pytest.mark.parametrize(
    ("error", "scoring", "cause", "blame"),
    [
        (CandidateError("nan"), False, Cause.NON_FINITE, Blame.CANDIDATE),
        (WorkerError("gone"), True, Cause.ENGINE, Blame.MACHINE),
        (RequestError("too long"), True, Cause.EVALUATION, Blame.CANDIDATE),
        (KeyError("target"), True, Cause.EVALUATION, Blame.CANDIDATE),
        (KeyError("weight"), False, Cause.ENGINE, Blame.MACHINE),
        (MemoryError(), True, Cause.OUT_OF_MEMORY, Blame.MACHINE),
        (OutOfMemoryError("CUDA"), True, Cause.OUT_OF_MEMORY, Blame.MACHINE),
        (OSError(errno.ENOSPC, "full"), True, Cause.DISK_FULL, Blame.MACHINE),
        (OSError(errno.EIO, "broken"), True, Cause.ENGINE, Blame.MACHINE),
    ],
)
def test_blame_follows_the_error(error, scoring, cause, blame):
    failure = failure_from(error, scoring=scoring)
    assert (failure.cause, failure.blame) == (cause, blame)


def test_cause_of_an_error_decides_too():
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as full:
            raise WorkerError("The engine failed.") from full
    except WorkerError as error:
        failure = failure_from(error, scoring=True)
    assert failure.cause is Cause.DISK_FULL
    assert "No space left" in failure.message


def test_error_of_a_task_is_recorded_with_its_traceback():
    try:
        {}["target"]
    except KeyError as error:
        failure = failure_from(error, scoring=True)
    assert failure.message.startswith("KeyError: 'target'")
    assert "test_evaluator.py" in failure.message
