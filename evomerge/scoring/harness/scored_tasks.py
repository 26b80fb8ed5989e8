"""Tasks of lm-eval on a living engine, a block of items at a time.

The evaluator owns one ``LmEvalTasks`` a worker. Tasks, prompts and tokens are built
once; for each block the answers are asked for, filtered and measured by the task's own
methods, so every figure equals that of ``lm_eval.evaluator.evaluate``.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.core.aggregates import parts_named
from evomerge.core.scoring_protocol import (
    BlockKey,
    ItemRole,
    Manifest,
    Outcome,
    ScoringProtocol,
    TaskDescription,
)
from evomerge.core.work import TaskSettings
from evomerge.errors import (
    CheckpointError,
    EvomergeError,
    RequestError,
    SpecError,
    WorkerError,
)
from evomerge.scoring.engine import Completion, Engine
from evomerge.scoring.harness.adapter import EngineLM
from evomerge.scoring.harness.image_tasks import shows_images
from evomerge.scoring.harness.internals import (
    Instance,
    filtered,
)
from evomerge.scoring.harness.limited import LimitError
from evomerge.scoring.harness.loading import load_task, reason
from evomerge.scoring.harness.losses import losses, reads_texts
from evomerge.scoring.harness.questions import Question, build_questions, remember_texts
from evomerge.scoring.harness.task_index import wrong
from evomerge.scoring.harness.task_keys import key_of
from evomerge.scoring.harness.task_protocol import (
    aggregated,
    offered,
    protocol_settings,
)


class LmEvalTasks:
    """The lm-eval tasks of one worker.

    Raises:
        SpecError: A task is unknown, refused, or cannot be built.
    """

    def __init__(
        self, settings: Sequence[TaskSettings], engine: Engine, cache_dir: str
    ) -> None:
        self._lm = EngineLM(engine)
        self._tasks = {s.name: _Task(s, engine, self._lm, cache_dir) for s in settings}

    def describe(self) -> tuple[TaskDescription, ...]:
        """Return items, protocol and metrics of every task, in the order given."""
        return tuple(task.description for task in self._tasks.values())

    def score(self, block: BlockKey) -> tuple[Outcome, ...]:
        """Answer a block of items with the engine's present weights.

        Returns:
            One outcome an item, in the manifest's order.

        Raises:
            CandidateError: The model's numbers are not finite.
            WorkerError: The engine failed, or there is no such task here.
        """
        return self.score_together([block])[0]

    def score_together(
        self, blocks: Sequence[BlockKey]
    ) -> tuple[tuple[Outcome, ...], ...]:
        """Answer blocks in one call of the engine for each kind of request.

        Returns:
            For each block, in order, what ``score`` returns.

        Raises:
            CandidateError: The model's numbers are not finite.
            WorkerError: The engine failed, or there is no such task here.
        """
        for block in blocks:
            if block.task not in self._tasks:
                raise WorkerError(f"This worker has no task {block.task!r}.")
        asked = [self._tasks[block.task].asked(block) for block in blocks]
        completions = _answer(self._lm, [i for one in asked for i in _instances(one)])
        return tuple(
            self._tasks[block.task].outcomes(one, completions)
            for block, one in zip(blocks, asked, strict=True)
        )

    def score_first(self, task: str, n: int) -> tuple[Outcome, ...]:
        """Answer a task's first n search items, to prove and time it.

        Raises:
            CandidateError: The model's numbers are not finite.
            WorkerError: The engine failed, or there is no such task here.
        """
        if task not in self._tasks:
            raise WorkerError(f"This worker has no task {task!r}.")
        ids = self._tasks[task].description.manifest.ids_of(ItemRole.SEARCH)
        asked = self._tasks[task].questions(ids[:n])
        return self._tasks[task].outcomes(asked, _answer(self._lm, _instances(asked)))


class _Task:
    """One task with its questions."""

    def __init__(
        self, settings: TaskSettings, engine: Engine, lm: EngineLM, cache_dir: str
    ) -> None:
        self._lm = lm
        self._settings = settings
        self._task = load_task(settings, cache_dir)
        if shows_images(self._task):
            try:
                _ = lm.images
            except (SpecError, CheckpointError) as error:
                raise wrong(settings, f"{error}") from error
        questions = build_questions(self._task, settings, lm)
        self._questions = questions.by_id
        remember_texts(self._task, (q.doc for q in self._questions.values()))
        self._metrics = offered(self._task, settings)
        self._aggregated = aggregated(self._task)
        self._check_generation(settings)
        self.description = TaskDescription(
            manifest=Manifest(settings.name, questions.items, settings.shares),
            protocol=ScoringProtocol(
                settings.name,
                protocol_settings(self._task, settings, engine, questions),
            ),
            metrics=tuple(self._metrics),
        )

    def asked(self, block: BlockKey) -> dict[str, Question]:
        """Return the questions of a block, by item, in the manifest's order."""
        return self.questions(self.description.manifest.ids(block))

    def questions(self, ids: Sequence[str]) -> dict[str, Question]:
        return {name: self._questions[name] for name in ids}

    def outcomes(
        self,
        asked: Mapping[str, Question],
        completions: Mapping[int, list[Completion]],
    ) -> tuple[Outcome, ...]:
        """Measure what the engine answered."""
        try:
            filtered(self._task, _instances(asked))
            return tuple(
                self._outcome(name, question, completions)
                for name, question in asked.items()
            )
        except LimitError as error:
            raise error.at(self._place(error, asked)) from None
        except (EvomergeError, MemoryError, OSError):
            raise
        except Exception as error:  # what the task does with answers may raise anything
            said = f"answers cannot be scored: {reason(error)}"
            raise wrong(self._settings, said) from error

    def _place(self, error: LimitError, asked: Mapping[str, Question]) -> str:
        """Say at which key of the task, and on which item's answer, a limit was met."""
        config = self._task.config.to_dict(keep_callable=True)
        key = key_of(config, error.source) or "a template"
        items = [
            name
            for name, question in asked.items()
            if any(error.text in i.resps for i in question.instances)
        ]
        task = self.description.manifest.task
        return f"task {task}: {key}" + (f", item {items[0]}" if items else "")

    def _outcome(
        self,
        name: str,
        question: Question,
        completions: Mapping[int, list[Completion]],
    ) -> Outcome:
        measured: dict[str, Mapping[str, Any]] = {}
        metrics: dict[str, float] = {}
        for key, (metric, filter_name) in self._metrics.items():
            if filter_name not in measured:
                answered = [i.filtered_resps[filter_name] for i in question.instances]
                found = self._task.process_results(question.doc, answered)
                if reads_texts(self._task):
                    found |= losses(self._task, question.doc, *answered)
                measured[filter_name] = found
            value = measured[filter_name][metric]
            if (how := self._aggregated.get(metric)) is None:
                metrics[key] = float(value)
            else:
                parts = value if isinstance(value, tuple) else (value,)
                metrics |= parts_named(key, how, parts)
        answers = [
            answer
            for instance in question.instances
            for answer in completions.get(id(instance), ())
        ]
        return Outcome(
            item=name,
            metrics=metrics,
            tokens=sum(answer.n_tokens for answer in answers),
            truncated=any(answer.truncated for answer in answers),
        )

    def _check_generation(self, settings: TaskSettings) -> None:
        """Find a generation setting that engines do not offer now, not in a trial."""
        first = next(iter(self._questions.values())).instances[0]
        if first.request_type == "generate_until":
            try:
                self._lm.prompt(*first.args)
            except RequestError:
                pass  # said below
            except (TypeError, ValueError) as error:
                raise wrong(settings, f"gen_kwargs: {error}") from error
        if shows_images(self._task):
            self._check_images(settings)

    def _check_images(self, settings: TaskSettings) -> None:
        """Prepare every prompt's images now, so that no trial meets one that fails."""
        for name, question in self._questions.items():
            for instance in question.instances:
                try:
                    self._lm.prompt(*instance.args)
                except RequestError as error:
                    raise wrong(settings, f"item {name}: {error}.") from error


def _instances(asked: Mapping[str, Question]) -> list[Instance]:
    return [i for question in asked.values() for i in question.instances]


def _answer(lm: EngineLM, instances: Sequence[Instance]) -> dict[int, list[Completion]]:
    """Ask the engine, kind by kind, and leave every answer with its request.

    Returns:
        Identity of a generating request to its answers.
    """
    kinds: dict[str, list[Instance]] = defaultdict(list)
    for instance in instances:
        instance.resps = []
        instance.filtered_resps = {}
        kinds[instance.request_type].extend(
            itertools.repeat(instance, instance.repeats or 1)
        )
    completions: dict[int, list[Completion]] = defaultdict(list)
    for kind, requests in kinds.items():
        if kind == "generate_until":
            for request, answer in zip(requests, lm.complete(requests), strict=True):
                completions[id(request)].append(answer)
                request.resps.append(answer.text)
        else:
            answers = getattr(lm, kind)(requests)
            for request, pair in zip(requests, answers, strict=True):
                request.resps.append(pair)
    return completions
