"""A task's chosen items with their prompts, built once for a worker's whole life.

The harness asks for them when it starts. Few-shot examples are drawn as lm-eval's
command line draws them over the whole dataset, so a prompt depends on the dataset and
the item, not on which other items a study happens to use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.core.scoring_protocol import Item, ItemRole
from evomerge.core.work import TaskSettings
from evomerge.errors import NotAllowedError
from evomerge.scoring.harness.adapter import EngineLM
from evomerge.scoring.harness.image_tasks import (
    PLACEHOLDER,
    content,
    decoded,
    images_of,
    shows_images,
)
from evomerge.scoring.harness.internals import (
    ConfigurableTask,
    FirstNSampler,
    Instance,
    undecoded_images,
)
from evomerge.scoring.harness.loading import FEWSHOT_SEED, TASK_ERRORS, reason
from evomerge.scoring.harness.losses import reads_texts
from evomerge.scoring.harness.task_index import wrong
from evomerge.scoring.images import ImageError
from evomerge.scoring.items import item_id, split_items


@dataclass(frozen=True, slots=True)
class Question:
    """One item: its document and the requests it makes, in order."""

    doc: Mapping[str, Any]
    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True)
class Questions:
    """All chosen items of a task.

    Attributes:
        items: The manifest's items.
        by_id: Item id to question.
        documents: Split to the ids of all its documents, in dataset order.
    """

    items: tuple[Item, ...]
    by_id: Mapping[str, Question]
    documents: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Split:
    """One dataset split, as a list of documents and their names."""

    name: str
    docs: Sequence[Mapping[str, Any]]
    ids: tuple[str, ...]


def build_questions(
    task: ConfigurableTask, settings: TaskSettings, lm: EngineLM | None
) -> Questions:
    """Choose the items and write their prompts.

    Args:
        task: As lm-eval built it.
        settings: Which items, and how prompts are written.
        lm: Has the tokenizer for chat templates; needed for nothing else.

    Raises:
        SpecError: A split does not exist, roles or examples overlap, or a prompt
            cannot be written.
    """
    own = task.config.test_split or task.config.validation_split
    search = _read(task, settings, settings.search_split or own)
    report = search
    if settings.report_split is not None:
        report = _read(task, settings, settings.report_split)
    held_out = report.ids if settings.report_split is not None else None
    chosen = split_items(settings, search.ids, held_out)
    writer = _PromptWriter(task, settings, lm)
    by_id: dict[str, Question] = {}
    for role, split in ((ItemRole.SEARCH, search), (ItemRole.REPORT, report)):
        wanted = {item.id for item in chosen if item.role is role}
        by_id |= writer.write(split, wanted)
    # Once more, now that the examples in use are known.
    items = split_items(settings, search.ids, held_out, examples=writer.examples)
    return Questions(
        items=items,
        by_id=by_id,
        documents={split.name: split.ids for split in (search, report)},
    )


def remember_texts(task: ConfigurableTask, docs: Iterable[Mapping[str, Any]]) -> None:
    """Let a task render target and choices of these documents only once.

    They are the same for every candidate, and rendering them is most of what a task
    does besides the model's own work.

    Args:
        task: Changed in place.
        docs: Must stay alive as long as the task: they are known by identity.
    """
    kept = {id(doc) for doc in docs}
    for name in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        setattr(task, name, _remembering(getattr(task, name), kept))


def _remembering(render: Callable[..., Any], kept: set[int]) -> Callable[..., Any]:
    known: dict[int, Any] = {}

    def remembered(doc: Mapping[str, Any], *other: Any, **named: Any) -> Any:
        if other or named or id(doc) not in kept:
            return render(doc, *other, **named)
        if id(doc) not in known:
            known[id(doc)] = render(doc)
        value = known[id(doc)]
        return value.copy() if isinstance(value, list) else value

    return remembered


def _read(task: ConfigurableTask, settings: TaskSettings, name: str | None) -> _Split:
    if name is None or name not in task.dataset:
        known = ", ".join(sorted(task.dataset))
        raise wrong(settings, f"there is no split {name!r}; the dataset has {known}.")
    task.set_config("test_split", name)
    with undecoded_images():
        docs = list(task.test_docs())
    ids = []
    for place, doc in enumerate(docs):
        try:
            named = content(task, doc, task.folder) if shows_images(task) else doc
            ids.append(item_id(named))
        except (TypeError, ImageError, NotAllowedError) as error:
            raise wrong(settings, f"document {place} of {name}: {error}") from error
    return _Split(name, docs, tuple(ids))


class _PromptWriter:
    """Writes prompts through the task's own methods, noting the examples it uses."""

    def __init__(
        self, task: ConfigurableTask, settings: TaskSettings, lm: EngineLM | None
    ) -> None:
        self._task = task
        self._settings = settings
        self._n_examples = task.config.num_fewshot or 0
        self._template = self._chat_template(lm)
        self._draw: Callable[..., Sequence[Mapping[str, Any]]] | None = None
        self.examples: set[str] = set()
        if self._n_examples:
            self._draw = task.sampler.sample
            task.sampler.sample = self._noted

    def write(self, split: _Split, wanted: set[str]) -> dict[str, Question]:
        """Write the questions of a split whose ids are wanted."""
        task = self._task
        task.set_config("test_split", split.name)
        task.set_fewshot_seed(FEWSHOT_SEED)
        found: dict[str, Question] = {}
        for place, (doc, name) in enumerate(zip(split.docs, split.ids, strict=True)):
            if name in wanted and name not in found:
                instances = tuple(self._instances(place, doc))
                if shows_images(self._task):
                    self._read_images(f"item {name} (document {place})", instances)
                found[name] = Question(doc, instances)
            else:
                self._pass_over(doc)
            if len(found) == len(wanted):
                break
        return found

    def _instances(self, place: int, doc: Mapping[str, Any]) -> Iterator[Instance]:
        task, chat = self._task, self._template is not None
        try:
            if shows_images(task):
                doc = decoded(task, doc, task.folder)
            context = task.fewshot_context(
                doc,
                num_fewshot=self._n_examples,
                system_instruction=self._settings.system_instruction,
                apply_chat_template=chat,
                fewshot_as_multiturn=chat,
                chat_template=self._template,
                gen_prefix=task.doc_to_prefix(doc),
            )
            made = task.construct_requests(
                doc=doc,
                ctx=context,
                metadata=(task.config.task, place, task.config.repeats),
                apply_chat_template=chat,
                chat_template=self._template,
            )
        except TASK_ERRORS as error:
            raise wrong(
                self._settings,
                f"the prompt of document {place} cannot be written: "
                f"{reason(error, task.config.to_dict(keep_callable=True))}",
            ) from error
        requests = sorted(made if isinstance(made, list) else [made], key=_index)
        if reads_texts(task) and not requests[0].args[0].strip():
            raise wrong(
                self._settings,
                f"the text of document {place} (doc_to_target) is empty: it has no "
                "loss. Leave it out.",
            )
        yield from requests

    def _read_images(self, item: str, instances: Sequence[Instance]) -> None:
        """Leave with each request its images, as values that engines take."""
        for instance in instances:
            text, gen_kwargs, more = instance.args
            try:
                images = images_of(more["visual"], self._task.folder)
            except ImageError as error:
                raise wrong(self._settings, f"{item}: {error}.") from error
            n_places = text.count(PLACEHOLDER)
            if self._template is None and n_places != len(images):
                raise wrong(
                    self._settings,
                    f"{item}: expected {PLACEHOLDER} once for each image in "
                    f"doc_to_text, got it {n_places} times for {len(images)} images.",
                )
            instance.arguments = (text, gen_kwargs, images)

    def _pass_over(self, doc: Mapping[str, Any]) -> None:
        """Draw and drop, so that the next document gets lm-eval's own examples."""
        if self._draw is None or isinstance(self._task.sampler, FirstNSampler):
            return
        task = self._task
        same_split = task.fewshot_cfg.split == task.config.test_split
        self._draw(n=self._n_examples, eval_doc=doc if same_split else None)

    def _noted(self, *args: Any, **kwargs: Any) -> Sequence[Mapping[str, Any]]:
        assert self._draw is not None
        drawn = self._draw(*args, **kwargs)
        self.examples.update(item_id(doc) for doc in drawn)
        return drawn

    def _chat_template(self, lm: EngineLM | None) -> Callable[..., str] | None:
        if lm is None or not self._settings.apply_chat_template:
            return None
        seen = shows_images(self._task)
        if not (lm.images.processor if seen else lm.tokenizer).chat_template:
            raise wrong(
                self._settings,
                "apply_chat_template is on, but the frame's tokenizer has no chat "
                "template.",
            )
        return lm.apply_image_template if seen else lm.apply_chat_template


def _index(instance: Instance) -> int:
    return instance.idx
