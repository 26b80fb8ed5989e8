"""A set-up as it holds on the node where a worker starts.

A set-up names folders of the coordinator's machine. On a node, each is that folder if
it is there with the same content (a shared disk), or a model of a hub, or what the
node's own cache has of that content. What is left is fetched into the cache, once for
all workers of the node.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from evomerge.caches import cache_dir
from evomerge.checkpoints import hub, read_model
from evomerge.checkpoints.adapters.adapter import read_adapter
from evomerge.checkpoints.adapters.adapter_config import ADAPTER_CONFIG
from evomerge.checkpoints.statistics import content_of_statistics
from evomerge.cluster.goods import Parcel, Stock, TooLargeError, task_files
from evomerge.core.work import WorkerSetup
from evomerge.errors import CheckpointError, NodeError
from evomerge.merging.output.atomic_folder import atomic_folder
from evomerge.scoring.localise import locked

CHUNK = 16 * 2**20

Fetch = Callable[[str, str, int], bytes]
"""From the name of a parcel, a file of it and an offset to the bytes from there on."""


@dataclass(frozen=True, slots=True)
class Lacking:
    """A worker cannot start before these are brought to its node.

    Attributes:
        what: Folders, as the coordinator's machine has them.
    """

    what: tuple[str, ...]


def settle(
    setup: WorkerSetup, stock: Stock, fetch: Fetch | None
) -> WorkerSetup | Lacking:
    """Return the set-up with the folders of this node, fetched where need be.

    Args:
        setup: As the coordinator has it.
        stock: What can be fetched.
        fetch: How; None to be told what is lacking instead.

    Raises:
        NodeError: Something is not here and cannot be brought here, or the cache
            folder cannot be written.
        ExportError: The disk is too small or refuses.
    """
    cache = _writable(cache_dir())
    node = _Node(stock, fetch, cache)
    tasks = {path: node.tasks(path) for path in _includes(setup)}
    sources = dict(setup.sources)
    if setup.engine.kind != "simulated":
        for fingerprint, folder in setup.sources.items():
            origin = setup.origins.get(fingerprint)
            sources[fingerprint] = node.model(fingerprint, folder, origin)
    if node.lacking:
        return Lacking(tuple(node.lacking))
    return replace(
        setup,
        tasks=tuple(
            replace(t, include_path=tasks.get(t.include_path or ""))
            for t in setup.tasks
        ),
        sources=sources,
        cache_dir=str(cache),
    )


def _includes(setup: WorkerSetup) -> set[str]:
    return {t.include_path for t in setup.tasks if t.include_path is not None}


def _writable(cache: Path) -> Path:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        raise NodeError(
            f"Its cache folder {cache} cannot be written: {error.strerror or error}. "
            "Set EVOMERGE_CACHE on that node to a folder that can."
        ) from None
    return cache


class _Node:
    """What this node has, and what it lacks."""

    def __init__(self, stock: Stock, fetch: Fetch | None, cache: Path) -> None:
        self._stock = stock
        self._fetch = fetch
        self._cache = cache
        self.lacking: list[str] = []

    def tasks(self, path: str) -> str:
        parcel = self._stock.tasks.get(path)
        if parcel is None:
            if Path(path).is_dir():
                return path
            raise _missing("folder of task files", path, self._stock.too_large[path])
        try:
            if Path(path).is_dir() and task_files(Path(path)).name == parcel.name:
                return path
        except (OSError, TooLargeError):
            pass
        return self._brought(parcel, "tasks", lambda folder: task_files(folder).name)

    def model(self, fingerprint: str, path: str, origin: str | None) -> str:
        if self._is(fingerprint, Path(path)):
            return path
        wanted = None if origin is None else hub.parse(origin)
        reason = ""
        if wanted is not None:
            try:
                return str(hub.fetch(wanted).folder)
            except CheckpointError as error:
                reason = f"{error}; "
        parcel = self._stock.models.get(fingerprint)
        if parcel is None:
            reason += self._stock.too_large.get(fingerprint, "it holds no model files")
            raise _missing("model", path, reason)
        folder = self._brought(parcel, "models", self._content)
        alone = Path(path).name in parcel.files and len(parcel.files) == 1
        return str(Path(folder) / Path(path).name) if alone else folder

    def _is(self, fingerprint: str, path: Path) -> bool:
        try:
            return path.exists() and self._content(path) == fingerprint
        except (CheckpointError, OSError):
            return False

    def _content(self, folder: Path) -> str:
        files = list(folder.iterdir()) if folder.is_dir() else [folder]
        if len(files) == 1 and files[0].suffix == ".safetensors":
            return content_of_statistics(files[0], self._cache)
        read = read_adapter if (folder / ADAPTER_CONFIG).is_file() else read_model
        return read(folder, cache_dir=self._cache).fingerprint

    def _brought(
        self, parcel: Parcel, kind: str, content: Callable[[Path], str]
    ) -> str:
        folder = self._cache / kind / parcel.name
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.is_dir():
            return str(folder)
        if self._fetch is None:
            self.lacking.append(parcel.folder)
            return str(folder)
        with locked(Path(f"{folder}.lock"), f"fetching {parcel.folder}"):
            if not folder.is_dir():
                with atomic_folder(folder, parcel.size) as partial:
                    self._copy(parcel, partial, self._fetch)
                    if content(partial) != parcel.name:
                        raise NodeError(
                            f"{parcel.folder} arrived with other content than it had "
                            "when the study began: it was changed meanwhile."
                        )
        return str(folder)

    def _copy(self, parcel: Parcel, folder: Path, fetch: Fetch) -> None:
        for name, size in parcel.files.items():
            path = folder / name
            if not path.resolve().is_relative_to(folder.resolve()):
                raise NodeError(f"{name!r} is no name of a file within {folder.name}.")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                while (at := file.tell()) < size:
                    part = fetch(parcel.name, name, at)
                    if not part:
                        break
                    file.write(part)


def _missing(what: str, path: str, reason: str) -> NodeError:
    return NodeError(
        f"It has no {what} {path}, which cannot be brought there: {reason}. Put it on "
        "a disk that every node sees, or use a hub id."
    )
