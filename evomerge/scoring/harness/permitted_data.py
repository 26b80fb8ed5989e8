"""The data that a task names, held against an operator's policy.

The library of data sets follows paths of many kinds: patterns, home folders, file
systems by name, the card of a data set that lies in a folder. Under a policy a task
names plain files, one by one, and each is given to the library by where it really is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evomerge.core.policy import Policy, refuse_hub, refuse_outside
from evomerge.errors import Problem, SpecError
from evomerge.scoring.harness.task_files import FILE_BUILDERS
from evomerge.specs.reading.yamlfile import join

_FILES = "dataset_kwargs.data_files"
_PATTERN = re.compile(r"[*?\[\]{}]|::")
_OF_HUB = "hf://"


def permitted_data(config: dict[str, Any], folder: Path, policy: Policy) -> None:
    """Replace the data files of a task by where they are, if all may be read.

    Args:
        config: The task's keys, whole; changed in place.
        folder: Where the task's file stands.
        policy: What is permitted.

    Raises:
        SpecError: Says each key that names what may not be read.
    """
    problems = list(_data_set(config, policy))
    options = config.get("dataset_kwargs")
    if isinstance(options, Mapping):
        for key in ("data_dir", "cache_dir"):
            if options.get(key) is not None:
                said = "expected no such key here; name data_files one by one"
                problems.append(Problem(f"dataset_kwargs.{key}", said))
        files = options.get("data_files")
        if files is not None:
            reader = _Files(folder, policy, problems)
            config["dataset_kwargs"] = {**options, "data_files": reader.found(files)}
    if problems:
        raise SpecError(problems)


def refuse_file(file: str) -> None:
    """Refuse a file of a data set that the policy in force does not let be read.

    Raises:
        NotAllowedError: It lies elsewhere, or is a link to another server.
    """
    if file.startswith(_OF_HUB):
        refuse_hub(file)
    else:
        refuse_outside(file)  # what is a link is no path in a root


def _data_set(config: Mapping[str, Any], policy: Policy) -> Iterator[Problem]:
    name = config.get("dataset_path")
    if name is None or name in FILE_BUILDERS:
        return
    if not isinstance(name, str) or Path(name).exists() or not _is_of_hub(name):
        said = (
            f"expected one of {', '.join(FILE_BUILDERS)} with data_files, or a hub's "
            f"data set, got {name!r:.80}"
        )
    elif not policy.hub:
        said = (
            "the operator lets nothing be fetched from a hub (hub: deny), got "
            f"{name!r:.80}; name data_files"
        )
    else:
        return
    yield Problem("dataset_path", said)


def _is_of_hub(name: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) is not None


class _Files:
    def __init__(self, folder: Path, policy: Policy, problems: list[Problem]) -> None:
        self._folder, self._policy, self._problems = folder, policy, problems

    def found(self, files: Any, key: str = _FILES) -> Any:
        """Return the same files by their real paths; what is wrong is noted."""
        if isinstance(files, Mapping):
            return {
                split: self.found(part, join(key, split))
                for split, part in files.items()
            }
        if isinstance(files, list):
            return [self.found(part, join(key, i)) for i, part in enumerate(files)]
        said = self._refusal(files)
        if said is None and not str(files).startswith(_OF_HUB):
            return str((self._folder / files).resolve())
        if said is not None:
            self._problems.append(Problem(key, f"{said}, got {files!r:.200}"))
        return files

    def _refusal(self, file: Any) -> str | None:
        if not isinstance(file, str) or "\0" in file:
            return "expected the name of a file"
        if file.startswith(_OF_HUB):
            if self._policy.hub and ".." not in file:
                return None
            return "the operator lets nothing be fetched from a hub (hub: deny)"
        if file.startswith("~") or "://" in file or _PATTERN.search(file):
            return "expected files one by one, and no link, pattern or home folder"
        path = self._folder / file
        if not self._policy.is_within(path):
            return (
                "expected a file among the study's own or below "
                f"{self._policy.readable}"
            )
        if _PATTERN.search(str(path.resolve())):
            return "expected no file whose name reads as a pattern"
        return None if path.is_file() else "expected a file that is there"
