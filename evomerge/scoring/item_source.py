"""Measures of items that a living engine is asked about, without lm-eval.

A task whose ``task:`` names one reads its items from a JSON-lines file beside the
study, and has roles, blocks, outcomes and held-out items like any other. Whoever adds
a measure inherits ``ItemSource``: which keys items have, what is measured of each, and,
where it compares with a reference model, what is kept of that.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from evomerge.core.digest import digest
from evomerge.core.measures import REFERENCE, MeasureSource, Need
from evomerge.core.policy import refuse_outside
from evomerge.core.recipes.recipe import Recipe
from evomerge.core.scoring_protocol import (
    BlockKey,
    ItemRole,
    Manifest,
    Outcome,
    ScoringProtocol,
    TaskDescription,
)
from evomerge.core.survey import TaskFacts
from evomerge.core.work import TaskSettings
from evomerge.errors import (
    CandidateError,
    CheckpointError,
    Problem,
    SpecError,
    WorkerError,
)
from evomerge.scoring.content import plain, tokenizer_digest
from evomerge.scoring.engine import Engine
from evomerge.scoring.items import item_id, split_items

Item = Mapping[str, Any]
Array = npt.NDArray[np.float32]

DATA = "data"
"""Option of every measure: its file."""


class ItemSource(MeasureSource):
    """Measures items, each by what an engine makes of it.

    The keyword arguments of ``__init__``, with their defaults, are further options.

    Attributes:
        keys: Texts that every item must have.
        of_rewards: Reward models are measured, which give no tokens.
    """

    needed: ClassVar[frozenset[Need]] = frozenset({Need.ENGINE})
    keys: ClassVar[tuple[str, ...]] = ("text",)
    of_rewards: ClassVar[bool] = False

    def check(self, items: Sequence[Item], engine: Engine) -> str | None:
        """Say why this engine cannot be asked about these; None if it can."""
        del items, engine
        return None

    def size_bytes(self, item: Item, engine: Engine) -> int:
        """Return how much ``recorded`` keeps of an item."""
        raise NotImplementedError(f"{type(self).__name__} keeps nothing of {item}")

    def recorded(self, items: Sequence[Item], engine: Engine) -> Iterator[Array]:
        """Yield what is kept of the reference, which is in the engine now.

        Of those that need ``Need.REFERENCE`` alone.
        """
        raise NotImplementedError(f"{type(self).__name__} keeps nothing of {items}")

    def measured(
        self, items: Sequence[Item], engine: Engine, kept: Sequence[Array]
    ) -> Iterator[Mapping[str, float]]:
        """Yield the metrics of each item, by the weights that are in the engine.

        Args:
            items: As read from the file, in any order.
            engine: With the candidate in it.
            kept: Of each item what ``recorded`` gave; empty without a reference.

        Raises:
            CandidateError: The model's numbers are not finite.
        """
        raise NotImplementedError(f"{type(self).__name__} measures nothing")


class Items:
    """The items of a task, and the measure of them, before any engine starts.

    Raises:
        SpecError: An option is wrong, or the file cannot be used.
    """

    def __init__(self, settings: TaskSettings, kind: type[ItemSource]) -> None:
        self.settings = settings
        options = dict(settings.options)
        self._check_options(options, kind)
        file = self._file(options.pop(DATA))
        options.pop(REFERENCE, None)
        try:
            self.source = kind(**options)
        except (TypeError, ValueError) as error:
            raise self.wrong(f"options: {error}") from error
        self.options = options
        self.by_id = dict(self._read(file, kind))

    @property
    def facts(self) -> TaskFacts:
        """What can be measured."""
        rewards = self.source.of_rewards
        return TaskFacts(self.source.metrics, generates=False, rewards=rewards)

    def wrong(self, message: str, key: str = "") -> SpecError:
        """Return an error at a key of the task."""
        where = f"task {self.settings.name}" + (f": {key}" if key else "")
        return SpecError([Problem(where, message)])

    def _check_options(self, options: Item, kind: type[ItemSource]) -> None:
        own = set(inspect.signature(kind).parameters)
        needs = {DATA, *({REFERENCE} if Need.REFERENCE in kind.needed else ())}
        for name in sorted(options.keys() - own - needs):
            known = ", ".join(sorted(own | needs))
            raise self.wrong(f"no such option; known: {known}.", f"options.{name}")
        for name in sorted(needs - options.keys()):
            what = "a JSON-lines file in the folder of `include`"
            what = "the name of a source" if name == REFERENCE else what
            raise self.wrong(f"expected {what}, got nothing.", f"options.{name}")

    def _file(self, name: Any) -> Path:
        key = f"options.{DATA}"
        folder = self.settings.include_path
        if folder is None:
            raise self.wrong("expected a folder with the file, got nothing.", "include")
        if not isinstance(name, str) or Path(name).name != name:
            raise self.wrong(
                f"expected a file's name, in the folder of `include`, got {name!r}.",
                key,
            )
        file = Path(folder) / name
        try:
            refuse_outside(file)
        except CheckpointError as error:
            raise self.wrong(str(error), key) from error
        if not file.is_file():
            raise self.wrong(f"there is no file {file}.", key)
        return file

    def _read(self, file: Path, kind: type[ItemSource]) -> Iterator[tuple[str, Item]]:
        try:
            lines = file.read_text("utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise self.wrong(f"{file} cannot be read: {error}") from error
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                item = json.loads(line)
            except ValueError as error:
                raise self.wrong(f"{file.name}:{number}: no JSON: {error}") from error
            texts = [item.get(k) if isinstance(item, dict) else None for k in kind.keys]
            if not all(isinstance(text, str) and text for text in texts):
                raise self.wrong(
                    f"{file.name}:{number}: expected an object whose "
                    f"{', '.join(kind.keys)} are texts, got {line:.80}."
                )
            yield item_id(item), item


class ItemTask:
    """A task of such items on a living engine.

    Raises:
        SpecError: An option is wrong, or this engine cannot be asked.
    """

    def __init__(
        self,
        settings: TaskSettings,
        kind: type[ItemSource],
        engine: Engine,
        cache_dir: str,
    ) -> None:
        self._items = Items(settings, kind)
        self._source = self._items.source
        self._engine = engine
        self._compares = Need.REFERENCE in kind.needed
        if self._source.of_rewards is not hasattr(engine, "rewards"):
            wanted = "gives rewards" if self._source.of_rewards else "gives tokens"
            raise self._items.wrong(
                f"expected a model that {wanted}, on an engine that runs it (hf)."
            )
        if (
            said := self._source.check(list(self._items.by_id.values()), engine)
        ) is not None:
            raise self._items.wrong(said)
        reference = settings.reference if self._compares else None
        if self._compares and reference is None:
            named = settings.options[REFERENCE]
            raise self._items.wrong(
                f"expected the name of a source of the study, got {named!r}.",
                f"options.{REFERENCE}",
            )
        self._reference = reference
        protocol = {
            "measure": plain(kind),
            "options": plain(self._items.options),
            "reference": None if reference is None else reference.digest,
            "tokenizer": tokenizer_digest(engine.tokenizer),
            "max_length": engine.max_length,
            "engine": plain(engine.facts),
        }
        items = split_items(settings, list(self._items.by_id))
        self._description = TaskDescription(
            Manifest(settings.name, items, settings.shares),
            ScoringProtocol(settings.name, protocol),
            tuple(self._source.metrics),
        )
        self._folder = Path(cache_dir) / "references" / digest(protocol)

    def describe(self) -> TaskDescription:
        """Return items, protocol and metrics."""
        return self._description

    def score(self, recipe: Recipe, block: BlockKey) -> tuple[Outcome, ...]:
        """Measure a block of items with the candidate that is in the engine.

        Raises:
            CandidateError: The model's numbers are not finite.
            WorkerError: The engine or machine failed, or there is no room for what is
                kept of the reference.
        """
        manifest = self._description.manifest
        if self._compares:
            self._record(manifest.ids_of(block.role), recipe)
        return self._outcomes(manifest.ids(block))

    def score_first(self, recipe: Recipe, n: int) -> tuple[Outcome, ...]:
        """Measure the first n search items; arguments and errors as in ``score``."""
        ids = self._description.manifest.ids_of(ItemRole.SEARCH)
        if self._compares:
            self._record(ids, recipe)
        return self._outcomes(ids[:n])

    def _outcomes(self, ids: Sequence[str]) -> tuple[Outcome, ...]:
        items = [self._items.by_id[name] for name in ids]
        kept: list[Array] = []
        if self._compares:
            kept = [np.load(self._file(name), mmap_mode="r") for name in ids]
        found = self._source.measured(items, self._engine, kept)
        return tuple(
            Outcome(name, dict(metrics))
            for name, metrics in zip(ids, found, strict=True)
        )

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.npy"

    def _record(self, ids: Sequence[str], recipe: Recipe) -> None:
        """Ask the reference about items of which nothing is kept yet."""
        missing = [name for name in ids if not self._file(name).is_file()]
        if not missing:
            return
        assert self._reference is not None
        items = [self._items.by_id[name] for name in missing]
        self._folder.mkdir(parents=True, exist_ok=True)
        needed = sum(self._source.size_bytes(item, self._engine) for item in items)
        free = shutil.disk_usage(self._folder).free
        if needed > free // 2:
            raise WorkerError(
                f"What task {self._items.settings.name!r} keeps of its reference takes "
                f"{needed / 1e9:.1f} GB of {self._folder}, where {free / 1e9:.1f} GB "
                "are free. Use fewer or shorter items (limit, options), or another "
                "cache folder."
            )
        try:
            self._engine.swap(self._reference)
            for name, array in zip(
                missing, self._source.recorded(items, self._engine), strict=True
            ):
                draft = self._folder / f".{name}.{os.getpid()}.npy"
                np.save(draft, array)
                draft.replace(self._file(name))
        except CandidateError as error:
            # It is no candidate that failed, and the next would fail alike.
            raise WorkerError(
                f"The reference of task {self._items.settings.name!r} cannot be asked: "
                f"{error}"
            ) from error
        self._engine.swap(recipe)
