"""What a study file asks for, held against what an operator's policy permits.

Looked at as plain data, before anything that the file names is read: by the server
among the files of a bundle, and again where the study is run, where links are followed.
"""

from __future__ import annotations

import os.path
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from evomerge.checkpoints import hub
from evomerge.core.policy import REMOTE_CODE, Policy
from evomerge.errors import CheckpointError, Problem, SpecError
from evomerge.specs.reading.lines import Document
from evomerge.specs.reading.yamlfile import parse_yaml, read_yaml

_LIMITS = ("trials", "items", "minutes")
_SECONDS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0}
_LONGEST_OPTION = 64
_HOME = "expected no `~`: it is the home folder of whoever runs the service"


class Ground(Protocol):
    """Where the paths of a file start; ``folder`` is a place in it."""

    @property
    def policy(self) -> Policy:
        """What is permitted."""

    def permits(self, folder: str, written: str) -> bool:
        """Tell whether a path may be read."""

    def holds(self, folder: str, written: str) -> bool:
        """Tell whether a path is there, of those that may be read."""

    def read(self, folder: str, written: str) -> Document | None:
        """Return an evaluator file, None if it is not there or cannot be read."""


@dataclass(frozen=True, slots=True)
class InBundle:
    """The files of a bundle, by name; no other is looked at."""

    policy: Policy
    files: Mapping[str, bytes]

    def permits(self, folder: str, written: str) -> bool:
        """Tell so by the letters alone; links are followed where it is read."""
        place = _joined(folder, written)
        if not place.startswith("/"):
            return place != ".." and not place.startswith("../")
        roots = map(os.path.normpath, self.policy.roots)
        return any(PurePosixPath(place).is_relative_to(root) for root in roots)

    def holds(self, folder: str, written: str) -> bool:
        """Tell whether it is a file of the bundle, or a folder of such."""
        place = _joined(folder, written)
        return any(n == place or n.startswith(f"{place}/") for n in self.files)

    def read(self, folder: str, written: str) -> Document | None:
        """Read it if the bundle has it."""
        content = self.files.get(_joined(folder, written))
        if content is None:
            return None
        try:
            return parse_yaml(content.decode(), Path(written).name)
        except (SpecError, UnicodeDecodeError):
            return None


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A folder of this machine; links are followed."""

    policy: Policy
    base: Path

    def permits(self, folder: str, written: str) -> bool:
        """Tell so by where the path really leads."""
        return self.policy.is_within(self.base / folder / written)

    def holds(self, folder: str, written: str) -> bool:
        """Tell whether it exists, where it may be read."""
        path = self.base / folder / written
        return self.policy.is_within(path) and path.exists()

    def read(self, folder: str, written: str) -> Document | None:
        """Read it, where it may be read."""
        if not self.holds(folder, written):
            return None
        try:
            return read_yaml(self.base / folder / written)
        except SpecError:
            return None


def _joined(folder: str, written: str) -> str:
    return os.path.normpath(os.path.join(folder, written))  # noqa: PTH118 - no file's


def refusals(data: Document, ground: Ground) -> list[Problem]:
    """Return all that a study file asks for and may not have.

    What is malformed is passed over: the models of the file judge that.

    Args:
        data: The study file, as plain data.
        ground: Where its paths start.
    """
    return [data.lines.problem(key, said) for key, said in _Study(ground).look(data)]


class _Study:
    def __init__(self, ground: Ground) -> None:
        self._ground, self._policy = ground, ground.policy

    def look(self, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        for name, written in _items(data.get("sources")):
            yield from self._source(f"sources.{name}", written)
        for kind, files in _items(data.get("statistics")):
            for name, written in _items(files):
                yield from self._path(f"statistics.{kind}.{name}", written)
        yield from self._tasks(data.get("tasks"), "", "tasks")
        yield from self._evaluators(data.get("evaluators"))
        yield from self._engine(data.get("engine"), "engine.options")
        yield from self._starts(data.get("start"), "start")
        for i, stage in _items(data.get("stages")):
            if isinstance(stage, Mapping):
                here = f"stages.{i}"
                yield from self._engine(stage.get("engine"), f"{here}.engine.options")
                yield from self._starts(stage.get("start"), f"{here}.start")
        yield from _over_limits(data, self._policy)

    def _path(self, key: str, written: Any, folder: str = "") -> Iterator[Any]:
        """Judge a path; one of another kind is judged elsewhere."""
        if not isinstance(written, str):
            return
        if any(
            part.startswith("~") for part in PurePosixPath(written.strip()).parts[:1]
        ):
            yield key, f"{_HOME}, got {written!r:.200}."
        elif "\0" in written or not self._ground.permits(folder, written.strip()):
            yield (
                key,
                f"expected a path among the study's own files or below "
                f"{self._policy.readable}, got {written!r:.200}.",
            )

    def _source(self, key: str, written: Any) -> Iterator[tuple[str, str]]:
        """Judge a model and the adapter that may follow it."""
        if not isinstance(written, str):
            return
        for part in map(str.strip, written.split("+")):
            if not self._ground.holds("", part) and _is_hub_id(part):
                if not self._policy.hub:
                    yield (
                        key,
                        "expected a folder: the operator lets nothing be fetched from "
                        f"a hub (hub: deny), got {written!r:.200}.",
                    )
                    return
            elif found := list(self._path(key, part)):
                yield from found
                return

    def _evaluators(self, entries: Any) -> Iterator[tuple[str, str]]:
        for i, entry in _items(entries):
            inner = isinstance(entry, Mapping)
            written = entry.get("file") if inner else entry
            key = f"evaluators.{i}.file" if inner else f"evaluators.{i}"
            found = list(self._path(key, written))
            yield from found
            if isinstance(written, str) and not found:
                data = self._ground.read("", written)
                folder = str(PurePosixPath(written).parent)
                if data is not None:
                    yield from self._tasks(data.get("tasks"), folder, key)

    def _tasks(self, tasks: Any, folder: str, key: str) -> Iterator[tuple[str, str]]:
        """Judge tasks; those of an evaluator file are spoken of at its own key."""
        for name, task in _items(tasks):
            if not isinstance(task, Mapping):
                continue
            here = f"{key}.{name}" if key == "tasks" else key
            for found in self._path(f"{here}.include", task.get("include"), folder):
                yield (found if key == "tasks" else (key, f"task {name}: {found[1]}"))
            if task.get("trust_code") and not self._policy.allow_task_code:
                said = (
                    "the operator lets no task run code (allow_task_code: false); "
                    "leave it out, and use what lm-eval brings."
                )
                yield (
                    (f"{here}.trust_code", said)
                    if key == "tasks"
                    else (key, f"task {name}: trust_code: {said}")
                )

    def _engine(self, engine: Any, key: str) -> Iterator[tuple[str, str]]:
        options = engine.get("options") if isinstance(engine, Mapping) else None
        if isinstance(options, Mapping):
            yield from option_refusals(self._policy, options, key)

    def _starts(self, starts: Any, key: str) -> Iterator[tuple[str, str]]:
        starts = [starts] if isinstance(starts, Mapping) else starts
        for i, start in _items(starts):
            if isinstance(start, Mapping):
                yield from self._path(f"{key}.{i}.recipe", start.get("recipe"))
                if start.get("study") is not None:
                    yield (
                        f"{key}.{i}.study",
                        "studies of all users are in one database here; put recipes "
                        "of the other study beside this file, and name them.",
                    )


def option_refusals(
    policy: Policy, options: Mapping[str, Any], key: str
) -> Iterator[tuple[str, str]]:
    """Yield the options of an engine that are refused, and why."""
    for name, value in options.items():
        if (said := _option_refusal(policy, str(name), value)) is not None:
            yield f"{key}.{name}", said


def _option_refusal(policy: Policy, name: str, value: Any) -> str | None:
    if not policy.permits_option(name):
        if name == REMOTE_CODE:
            return (
                "the operator lets no engine run a model's code (allow_remote_code: "
                "false); leave it out."
            )
        known = ", ".join(sorted(policy.engine_options)) or "none"
        return f"the operator lets studies choose {known}; leave this out."
    if isinstance(value, str) and len(value) <= _LONGEST_OPTION and "/" not in value:
        return None
    if isinstance(value, bool | int | float):
        return None
    return f"expected a number, true, false or a word, got {value!r:.80}."


def _over_limits(data: Mapping[str, Any], policy: Policy) -> Iterator[tuple[str, str]]:
    """Judge budgets: of all stages together, where there are stages."""
    workers = _number(data.get("workers"))
    most = policy.max_workers
    if most is not None and workers is not None and workers > most:
        yield "workers", f"expected at most {most} here, got {workers:g}."
    stages = [s for _, s in _items(data.get("stages")) if isinstance(s, Mapping)]
    budgets = [stage.get("budget", data.get("budget")) for stage in stages]
    totals: dict[str, float | None] = {}
    for limit in _LIMITS:
        found = [_amount(one, limit) for one in budgets or [data.get("budget")]]
        known = [amount for amount in found if amount is not None]
        totals[limit] = sum(known) if len(known) == len(found) else None
    yield from amount_refusals(policy, totals)


def amount_refusals(
    policy: Policy, amounts: Mapping[str, float | None]
) -> Iterator[tuple[str, str]]:
    """Yield what a budget has too much of, or does not limit at all.

    Args:
        policy: What is permitted.
        amounts: ``trials``, ``items`` and ``minutes`` over all stages; None for no
            limit.
    """
    for limit in _LIMITS:
        most, amount = getattr(policy, f"max_{limit}"), amounts[limit]
        if most is not None and (amount is None or amount > most):
            got = "no limit" if amount is None else f"{amount:g}"
            yield "budget", f"expected at most {most:g} {limit} here, got {got}."


def _amount(budget: Any, limit: str) -> float | None:
    """Return a limit as a budget says it, None if it does not."""
    if not isinstance(budget, Mapping):
        return None
    if limit != "minutes":
        return _number(budget.get(limit))
    for unit, seconds in _SECONDS.items():
        if (found := _number(budget.get(unit))) is not None:
            return found * seconds / 60
    return None


def _number(value: Any) -> float | None:
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_one else None


def _is_hub_id(written: str) -> bool:
    try:
        return hub.parse(written) is not None
    except CheckpointError:
        return True  # begins as one


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)
