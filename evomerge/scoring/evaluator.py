"""One worker's work: swap a recipe into the engine, score its blocks, say who failed.

Called by every pool, in its own process or in the caller's, and by export. Knows
nothing of studies, strategies or databases; heavy libraries load with the engine and
task kinds that need them.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from evomerge.core.policy import Policy, confined
from evomerge.core.recipes.recipe import Recipe
from evomerge.core.scoring_protocol import BlockKey, Outcome, TaskDescription
from evomerge.core.trial import Blame, Cause, Failure
from evomerge.core.work import (
    Assignment,
    AttemptDone,
    AttemptFailed,
    BlockScored,
    TaskSettings,
    WorkerReady,
    WorkerSetup,
)
from evomerge.errors import CandidateError, Problem, SpecError, WorkerError
from evomerge.scoring.engine import Engine, SwapReport
from evomerge.scoring.engines import open_engine
from evomerge.scoring.failures import failure_from
from evomerge.scoring.localise import at_hand
from evomerge.scoring.task_kinds import is_own, own_task
from evomerge.steps import step

_log = logging.getLogger(__name__)

Answer = BlockScored | AttemptDone | AttemptFailed


class Evaluator:
    """A living engine and its tasks; one thread, one assignment at a time.

    Creating it starts the engine and runs its self-test, so a machine that does not
    compute what a cold load computes never gets as far as scoring.

    Raises:
        SpecError: A task cannot be built, or two have one name.
        CheckpointError: The frame cannot be loaded, or a parent not be fetched.
        SelfTestError: Swapped weights do not behave as cold-loaded ones.
        WorkerError: The engine or machine failed.
    """

    def __init__(self, setup: WorkerSetup) -> None:
        with confined(_policy_of(setup)):
            self._start(setup)

    def _start(self, setup: WorkerSetup) -> None:
        started = time.perf_counter()
        _refuse_equal_names(setup.tasks)
        if not all(is_own(settings) for settings in setup.tasks):
            # Another version of lm-eval is told now, not after the engine's start.
            import evomerge.scoring.harness.internals  # noqa: F401
        self._held: str | None = None
        with step(f"starting the {setup.engine.kind} engine"):
            setup = at_hand(setup)
            self._engine = open_engine(setup)
        try:
            with step("proving that the engine swaps weights"):
                self_test = self._engine.self_test()
            with step("building the tasks"):
                self._tasks = _Tasks(setup, self._engine)
                self._descriptions = self._tasks.describe()
        except BaseException:
            self._engine.close()
            raise
        self._facts: Mapping[str, Any] = {
            "engine": dict(self._engine.facts),
            "self_test": {
                "probe_difference": self_test.probe_difference,
                "return_difference": self_test.return_difference,
                "swap_s": self_test.swap_s,
            },
            "start_s": time.perf_counter() - started,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "python": platform.python_version(),
        }

    def ready(self, worker: str) -> WorkerReady:
        """Describe the tasks, under the name the pool gave this worker."""
        return WorkerReady(worker, self._descriptions, self._facts)

    def run(self, worker: str, assignment: Assignment) -> Iterator[Answer]:
        """Work on an assignment, answering one event at a time; see ``answers``."""
        for together in self.answers(worker, assignment):
            yield from together

    def answers(
        self, worker: str, assignment: Assignment
    ) -> Iterator[tuple[Answer, ...]]:
        """Work on an assignment; the blocks of a call are answered together.

        The last event is AttemptDone or AttemptFailed, never an exception. The time
        limit is looked at between calls; one that hangs is for the pool to kill. What
        was swapped in last and nothing failed on is not swapped in again.
        """
        attempt = _Attempt(worker, assignment)
        is_scoring = False
        scored: tuple[Answer, ...] = ()
        try:
            report = self._swap(assignment.recipe)
            is_scoring = True
            for blocks in self._tasks.calls(assignment):
                if scored:
                    yield scored
                if attempt.is_late:
                    yield (attempt.failed(attempt.timeout()),)
                    return
                began = time.perf_counter()
                found = self._tasks.score(assignment.recipe, blocks)
                seconds = time.perf_counter() - began
                scored = attempt.scored(blocks, found, seconds)
        except Exception as error:  # noqa: BLE001 - the worker's outermost call
            self._held = None
            failure = failure_from(error, scoring=is_scoring)
            _log.warning(
                "trial %d, attempt %d failed (%s, fault of the %s): %s",
                assignment.trial,
                assignment.attempt,
                failure.cause,
                failure.blame,
                error,
                exc_info=error if failure.cause is not Cause.NON_FINITE else None,
                extra={
                    "trial": assignment.trial,
                    "attempt": assignment.attempt,
                    "worker": worker,
                    "cause": failure.cause,
                },
            )
            yield (attempt.failed(failure),)
            return
        yield (*scored, attempt.done(report.materialise_s, report.swap_s))

    def score(
        self,
        recipe: Recipe,
        blocks: Sequence[BlockKey],
        scored: Callable[[int], None] = lambda n: None,
    ) -> tuple[Outcome, ...]:
        """Score blocks outside any trial, as export does; errors come through.

        Args:
            recipe: What is swapped in.
            blocks: Of the tasks.
            scored: Told of each block how many items it had.

        Returns:
            Outcomes in the order of the blocks, then of the manifest.

        Raises:
            CandidateError: The merged weights or the scores are not finite.
            WorkerError: The engine or machine failed.
        """
        self._held = None
        self._engine.swap(recipe)
        found: list[Outcome] = []
        for block in blocks:
            (outcomes,) = self._tasks.score(recipe, (block,))
            found += outcomes
            scored(len(outcomes))
        return tuple(found)

    def score_items(self, recipe: Recipe, task: str, n: int) -> int:
        """Score a task's first search items with the weights that are in the engine.

        Proves a task and times it; nothing of the answers is kept.

        Args:
            recipe: What was swapped in last; it is not swapped in again.
            task: The task's name in the study.
            n: Most items scored.

        Returns:
            How many items were scored.

        Raises:
            CandidateError: The scores are not finite.
            WorkerError: The engine or machine failed.
        """
        return len(self._tasks.score_first(recipe, task, n))

    def close(self) -> None:
        """Free the engine; idempotent."""
        self._engine.close()

    def _swap(self, recipe: Recipe) -> SwapReport:
        if self._held == recipe.digest:
            return SwapReport(0.0, 0.0, 0)
        self._held = None
        report = self._engine.swap(recipe)
        self._held = recipe.digest
        return report


class _Tasks:
    """Sends every block to the kind of task it belongs to."""

    def __init__(self, setup: WorkerSetup, engine: Engine) -> None:
        self._order = [settings.name for settings in setup.tasks]
        self._own = {
            settings.name: found
            for settings in setup.tasks
            if (found := own_task(settings, engine, setup.cache_dir)) is not None
        }
        # Its numbers differ in their last bits by who else is in a batch, and that
        # would be the cut's and the workers' doing. Its batches are its own anyway.
        self._joins = engine.facts["kind"] != "hf"
        real = [s for s in setup.tasks if s.name not in self._own]
        self._real = None
        if real:
            from evomerge.scoring.harness.scored_tasks import LmEvalTasks

            self._real = LmEvalTasks(real, engine, setup.cache_dir)

    def describe(self) -> tuple[TaskDescription, ...]:
        found = {name: task.describe() for name, task in self._own.items()}
        if self._real is not None:
            found |= {d.manifest.task: d for d in self._real.describe()}
        return tuple(found[name] for name in self._order)

    def calls(self, assignment: Assignment) -> Iterator[tuple[BlockKey, ...]]:
        """Yield what is scored together."""
        first = 0
        for n in assignment.calls or (len(assignment.blocks),):
            blocks = assignment.blocks[first : first + n]
            first += n
            if self._joins and not any(b.task in self._own for b in blocks):
                yield blocks
            else:
                yield from ((block,) for block in blocks)

    def score(
        self, recipe: Recipe, blocks: tuple[BlockKey, ...]
    ) -> tuple[tuple[Outcome, ...], ...]:
        """Score blocks of one kind of task, for each the outcomes of its items."""
        first = blocks[0]
        if first.task in self._own:
            found: tuple[tuple[Outcome, ...], ...] = (
                self._own[first.task].score(recipe, first),
            )
        elif self._real is not None:
            found = self._real.score_together(blocks)
        else:
            raise WorkerError(f"This worker has no task {first.task!r}.")
        for block, outcomes in zip(blocks, found, strict=True):
            _refuse_non_finite(block.task, outcomes)
        return found

    def score_first(self, recipe: Recipe, task: str, n: int) -> tuple[Outcome, ...]:
        if task in self._own:
            outcomes = self._own[task].score_first(recipe, n)
        elif self._real is not None:
            outcomes = self._real.score_first(task, n)
        else:
            raise WorkerError(f"This worker has no task {task!r}.")
        _refuse_non_finite(task, outcomes)
        return outcomes


class _Attempt:
    """The clock and the envelope of one assignment's answers."""

    def __init__(self, worker: str, assignment: Assignment) -> None:
        self._worker = worker
        self._assignment = assignment
        self._started = time.perf_counter()
        self._score_s = 0.0

    @property
    def is_late(self) -> bool:
        """The time limit has passed."""
        return time.perf_counter() - self._started > self._assignment.timeout_s

    def timeout(self) -> Failure:
        return Failure(
            Cause.TIMEOUT,
            Blame.MACHINE,
            f"Not done after {time.perf_counter() - self._started:.1f} s; the limit "
            f"is {self._assignment.timeout_s:g} s.",
        )

    def scored(
        self,
        blocks: Sequence[BlockKey],
        found: Sequence[tuple[Outcome, ...]],
        seconds: float,
    ) -> tuple[BlockScored, ...]:
        """Return the blocks of one call; its time is that of the first."""
        self._score_s += seconds
        place = (self._worker, self._assignment.trial, self._assignment.attempt)
        return tuple(
            BlockScored(*place, block, outcomes, 0.0 if n else seconds)
            for n, (block, outcomes) in enumerate(zip(blocks, found, strict=True))
        )

    def failed(self, failure: Failure) -> AttemptFailed:
        number, attempt = self._assignment.trial, self._assignment.attempt
        return AttemptFailed(self._worker, number, attempt, failure)

    def done(self, materialise_s: float, swap_s: float) -> AttemptDone:
        seconds = {
            "materialise": materialise_s,
            "swap": swap_s,
            "score": self._score_s,
        }
        number, attempt = self._assignment.trial, self._assignment.attempt
        return AttemptDone(self._worker, number, attempt, seconds)


def _policy_of(setup: WorkerSetup) -> Policy | None:
    """Return what a study may do here; its task files were looked at by who sent it."""
    if setup.policy is None:
        return None
    own = (task.include_path for task in setup.tasks)
    return setup.policy.with_roots(*(path for path in own if path is not None))


def _refuse_non_finite(task: str, outcomes: Sequence[Outcome]) -> None:
    """A score that is no number must not reach the store."""
    for outcome in outcomes:
        for metric, value in outcome.metrics.items():
            if not math.isfinite(value):
                raise CandidateError(
                    f"Metric {metric!r} of item {outcome.item} in task {task!r} "
                    f"is {value}, not a finite number."
                )


def _refuse_equal_names(tasks: Sequence[TaskSettings]) -> None:
    names = [settings.name for settings in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SpecError(
            [Problem(f"task {name}", "two tasks have this name") for name in twice]
        )
