"""What a node may lack of a study and is brought to it: task files and models.

This is the coordinator's side, which says what there is; ``on_node`` finds it on a
node's own disks, or fetches it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evomerge.checkpoints import hub
from evomerge.core.work import WorkerSetup

MOST_TASK_FILES = 2000
MOST_TASK_BYTES = 64 * 2**20
"""Of one folder of task files; a larger one has to be where every node sees it."""
MOST_MODEL_BYTES = 20 * 2**30
"""Of one model that nodes fetch; a larger one has to be there, or on a hub."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A folder that nodes can be given.

    Attributes:
        name: Of its content: a digest or a fingerprint.
        files: Name within the folder to bytes.
    """

    name: str
    folder: str
    files: Mapping[str, int]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(self.files.values())


@dataclass(frozen=True, slots=True)
class Stock:
    """What of a study can be brought to a node.

    Attributes:
        tasks: Folder of task files, as the set-up names it, to its parcel.
        models: Fingerprint to parcel.
        too_large: What cannot be brought, by the same keys, and why.
    """

    tasks: Mapping[str, Parcel]
    models: Mapping[str, Parcel]
    too_large: Mapping[str, str]


def stock_of(setup: WorkerSetup) -> Stock:
    """Look through the folders of a set-up on the coordinator's machine."""
    tasks: dict[str, Parcel] = {}
    models: dict[str, Parcel] = {}
    too_large: dict[str, str] = {}
    for path in {t.include_path for t in setup.tasks if t.include_path is not None}:
        try:
            tasks[path] = task_files(Path(path))
        except TooLargeError as error:
            too_large[path] = str(error)
    for fingerprint, folder in setup.sources.items():
        found = _parcel(fingerprint, Path(folder))
        if found.size > MOST_MODEL_BYTES:
            too_large[fingerprint] = f"more than {MOST_MODEL_BYTES >> 30} GiB"
        elif found.files:
            models[fingerprint] = found
    return Stock(tasks, models, too_large)


def _parcel(fingerprint: str, path: Path) -> Parcel:
    """Return a model's folder, or a file of statistics, as what nodes can be given."""
    if path.is_file():
        files = {path.name: path.stat().st_size}
        return Parcel(fingerprint, str(path.parent), files)
    return Parcel(fingerprint, str(path), hub.wanted_files(path))


class TooLargeError(Exception):
    """A folder holds more than is brought to nodes."""


def task_files(folder: Path) -> Parcel:
    """Look through a folder of task files, and name its content.

    Raises:
        TooLargeError: It holds too many files, or bytes.
    """
    files: dict[str, int] = {}
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            files[path.relative_to(folder).as_posix()] = path.stat().st_size
        if len(files) > MOST_TASK_FILES or sum(files.values()) > MOST_TASK_BYTES:
            raise TooLargeError(
                f"more than {MOST_TASK_FILES} files or {MOST_TASK_BYTES >> 20} MiB"
            )
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{files[name]}\0".encode())
        digest.update((folder / name).read_bytes())
    return Parcel(digest.hexdigest(), str(folder), files)
