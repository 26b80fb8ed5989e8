"""Finding the file of a task, or the group that bears its name.

Task files of one's own are looked for in their folder, all others in lm-eval's library.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from evomerge.core.nearest import nearest
from evomerge.core.work import TaskSettings
from evomerge.errors import Problem, SpecError
from evomerge.scoring.harness.internals import (
    LIBRARY,
    TaskManager,
    load_yaml,
    local_tasks,
)
from evomerge.scoring.harness.task_files import read_task_file


class UnknownTaskError(SpecError):
    """There is no such task.

    Attributes:
        nearest: Names that are much like it.
    """

    def __init__(self, problem: Problem, nearest: list[str]) -> None:
        super().__init__([problem])
        self.nearest = tuple(nearest)


class GroupError(SpecError):
    """A group or a tag stands where a task was expected.

    Attributes:
        manager: Knows the group and its members.
    """

    def __init__(self, problem: Problem, manager: TaskManager) -> None:
        super().__init__([problem])
        self.manager = manager


def wrong(settings: TaskSettings, message: str) -> SpecError:
    """Make the error that says which task of the study is at fault."""
    return SpecError([Problem(f"task {settings.name}", message)])


def find(settings: TaskSettings) -> Path:
    """Return the file a task stands in.

    Raises:
        UnknownTaskError: There is no such task.
        GroupError: It is a group of tasks, or a tag.
        SpecError: There is no such folder, or the name cannot be one.
    """
    if settings.include_path is not None:
        root = Path(settings.include_path)
        if not root.is_dir():
            raise wrong(settings, f"the folder of task files {str(root)!r} is missing.")
        return _indexed(settings, *_local(root.resolve(), settings), str(root))
    if not re.fullmatch(
        r"[^./\\~*?\[\]\x00-\x1f][^/\\*?\[\]\x00-\x1f]*", settings.task
    ):
        raise wrong(
            settings,
            f"expected the name of one of lm-eval's tasks, got {settings.task!r}; for "
            "task files of your own set include to their folder.",
        )
    if found := by_file_name(settings):
        return found
    where = "lm-eval's library"
    words, names = _library_words()
    if settings.task not in words:
        raise _unknown(settings, names, [], where)
    return _indexed(settings, _library(), [], where)


def by_file_name(settings: TaskSettings) -> Path | None:
    """Return the file of lm-eval's library that bears a task's name; None if none does.

    Most tasks stand in a file of their name; reading the whole library takes long.

    Raises:
        GroupError: It is a group of tasks, in a file of its name.
    """
    for path in _library_files().get(settings.task, ()):
        if load_yaml(path, resolve_func=False).get("task") == settings.task:
            return path
    for path in _library_files().get(f"_{settings.task}", ()):
        if load_yaml(path, resolve_func=False).get("group") == settings.task:
            part = LIBRARY / path.relative_to(LIBRARY).parts[0]
            manager = TaskManager(include_path=str(part), include_defaults=False)
            return _indexed(settings, manager, [], str(part))
    return None


def _local(root: Path, settings: TaskSettings) -> tuple[TaskManager, list[str]]:
    """Index a folder of task files; also say which files could not be read, and why."""
    unread: list[str] = []
    if settings.trust_code:
        return TaskManager(include_path=str(root), include_defaults=False), unread

    def read(path: Path) -> dict[str, Any]:
        try:
            return read_task_file(path, root)
        except SpecError as error:
            unread.extend(map(str, error.problems))
            raise

    return local_tasks(root, read), unread


def _indexed(
    settings: TaskSettings, manager: TaskManager, unread: list[str], where: str
) -> Path:
    entry = manager.task_index.get(settings.task)
    names = manager.all_subtasks
    if entry is None:
        raise _unknown(settings, names, unread, where)
    if settings.task not in names or entry.yaml_path is None:
        said = f"expected a task, got {settings.task!r}, which is a group."
        raise GroupError(Problem(f"task {settings.name}: task", said), manager)
    return entry.yaml_path


def _unknown(
    settings: TaskSettings, names: Collection[str], unread: list[str], where: str
) -> UnknownTaskError:
    near = nearest(settings.task, names, n=3)
    known = f"nearest are {', '.join(near)}" if near else f"there are {len(names)}"
    found = "".join(f" Not read: {said}" for said in unread[:3])
    said = f"no task {settings.task!r} in {where}; {known}.{found}"
    return UnknownTaskError(Problem(f"task {settings.name}: task", said), near)


@functools.cache
def _library_words() -> tuple[frozenset[str], frozenset[str]]:
    """Return all words of lm-eval's library, and those that are names of tasks.

    Looked through as text, which takes a second; read as YAML it takes many.
    """
    files = (p for p in LIBRARY.rglob("*") if p.suffix in ("", ".yaml", ".yml"))
    text = "\n".join(p.read_text("utf-8", "replace") for p in files if p.is_file())
    names = re.findall(r"""^["']?task["']?: *["']?([^\s"'\[]+)""", text, re.M)
    return frozenset(re.split(r"""[\s"',\[\]{}:]+""", text)), frozenset(names)


@functools.cache
def _library_files() -> Mapping[str, list[Path]]:
    """Return the files of lm-eval's library by their names without ending."""
    files: dict[str, list[Path]] = defaultdict(list)
    for path in LIBRARY.rglob("*.yaml"):
        files[path.stem].append(path)
    return files


@functools.cache
def _library() -> TaskManager:
    """Read lm-eval's whole library: fourteen thousand files, many seconds."""
    return TaskManager()
