"""What can be told of lm-eval's tasks without an engine."""

from __future__ import annotations

from dataclasses import replace

from evomerge.core.survey import Surveyed
from evomerge.core.work import TaskSettings
from evomerge.errors import SpecError
from evomerge.scoring.items import counted, keyed
from evomerge.scoring.lm_adapter import check_generation
from evomerge.scoring.lm_insides import ConfigurableTask
from evomerge.scoring.lm_metrics import facts_of
from evomerge.scoring.lm_questions import build_questions
from evomerge.scoring.lm_tasks import load_task, wrong


def look(settings: TaskSettings, cache_dir: str) -> Surveyed:
    """Find out about a task as far as possible; what is wrong is among the problems.

    Raises:
        SpecError: There is no such task, or it cannot be measured.
    """
    task = load_task(settings, cache_dir)
    facts = {settings.name: facts_of(task, settings)}
    try:
        counts = _counted(task, settings)
    except SpecError as error:
        return Surveyed(facts, problems=tuple(keyed(settings, error)))
    return Surveyed(facts, {settings.name: counts})


def _counted(task: ConfigurableTask, settings: TaskSettings) -> tuple[int, int]:
    """Write every prompt, and count the items of either role.

    A chat template needs a tokenizer, which a worker has.
    """
    plain = replace(settings, apply_chat_template=False)
    questions = build_questions(task, plain, None)
    first = next(iter(questions.by_id.values())).instances[0]
    if first.request_type == "generate_until":
        try:
            check_generation(first.args[1])
        except (TypeError, ValueError, SpecError) as error:
            raise wrong(settings, f"gen_kwargs: {error}") from error
    return counted(questions.items)
