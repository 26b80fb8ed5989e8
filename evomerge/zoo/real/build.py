"""Making the real zoo: convert, fine-tune what is missing, skip what is there."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from evomerge.checkpoints.model import read_model
from evomerge.core.digest import digest
from evomerge.errors import Problem, SpecError
from evomerge.merging.gguf import convert_gguf, gguf_file
from evomerge.merging.output.atomic_folder import atomic_folder
from evomerge.steps import Step
from evomerge.zoo.real import card, training
from evomerge.zoo.real.package import GGUF_SHA256, sha256, shipped_gguf
from evomerge.zoo.real.skills import EXPERTS, LESSONS, Lesson
from evomerge.zoo.real.tasks import write_study, write_tasks
from evomerge.zoo.training import OnStep

BASE = "base"
MODELS = (BASE, *EXPERTS)
STUDY = "study.yaml"
_RECORD, _LOCK, _CARD = "zoo.json", ".lock", "README.md"
_OURS = frozenset({*MODELS, "tasks", STUDY, _CARD, _RECORD, f"{_RECORD}.part", _LOCK})
_SET = "real"
_VERSION = 1
"""Raised whenever the same source would give other files."""

_GUESSES_S = {BASE: 30.0, "add": 140.0, "sort": 80.0}
"""Model to the seconds it takes two idle cores to make it."""


@dataclass(frozen=True, slots=True)
class RealZoo:
    """What ``make_real_zoo`` left.

    Attributes:
        folder: Holds ``base``, ``add``, ``sort``, ``tasks`` and ``study.yaml``.
        made: The models that were made by this call.
        seconds: Wall time of the call.
    """

    folder: Path
    made: tuple[str, ...]
    seconds: float

    @property
    def models(self) -> dict[str, Path]:
        """Name to model folder, the base first."""
        return {name: self.folder / name for name in MODELS}

    @property
    def study(self) -> Path:
        """The study file."""
        return self.folder / STUDY


def make_real_zoo(
    out: Path,
    source: Path | None = None,
    progress: OnStep | None = None,
    *,
    lessons: Mapping[str, Lesson] = LESSONS,
) -> RealZoo:
    """Convert the model, teach two experts, write tasks and a study.

    A model that is there and unharmed is kept, so an interrupted call is gone on with;
    of two callers with one folder, the second waits.

    Args:
        out: The zoo's folder: missing, empty, or of an earlier call.
        source: A ``.gguf`` file, a folder with one, or a model folder; None for the
            package that ships SmolLM2-135M-Instruct.
        progress: Told of finished steps.
        lessons: What each expert is taught.

    Raises:
        SpecError: ``out`` holds something else, or a zoo of another source.
        CheckpointError: The source is no model that can be read.
        EvomergeError: The package cannot be had.
    """
    started = time.monotonic()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise _refusal(out, "Expected a folder, but found a file") from None
    with FileLock(out / _LOCK, fallback_to_soft=False):
        zoo = _Zoo(out, source, progress or _silent, lessons)
        made = tuple(name for name in MODELS if zoo.make(name))
        write_tasks(out / "tasks")
        write_study(out / STUDY)
        (out / _CARD).write_text(card.of_zoo(), encoding="utf-8")
    return RealZoo(out, made, time.monotonic() - started)


def counting(now: Step) -> OnStep:
    """Give a function that counts the steps of all models as shares of their time."""
    shares: dict[str, float] = {}
    to_make = dict(_GUESSES_S)

    def told(model: str, done: int, total: int) -> None:
        if done == total and model not in shares:
            del to_make[model]  # it was there: nothing of it is waited for
            return
        shares[model] = done / total
        parts = [shares.get(name, 0.0) * at for name, at in to_make.items()]
        now.to(sum(parts), sum(to_make.values()))

    return told


def _silent(model: str, done: int, total: int) -> None:
    del model, done, total


class _Zoo:
    """A zoo in the making; its record says which models are whole."""

    def __init__(
        self,
        out: Path,
        source: Path | None,
        progress: OnStep,
        lessons: Mapping[str, Lesson],
    ) -> None:
        self._out, self._source, self._progress = out, source, progress
        self._lessons = lessons
        self._record = _read(out / _RECORD)
        found = {path.name for path in out.iterdir() if not _is_half(path)} - {_LOCK}
        foreign = sorted(found - _OURS)
        if foreign or (found and self._record is None):
            names = ", ".join(map(repr, foreign or sorted(found)))
            raise _refusal(
                out, f"Expected a new or empty folder or a real zoo, but found {names}"
            )
        begun = self._record or {"set": _SET, "models": {}}
        self._models: dict[str, Any] = begun["models"]
        self._from = self._named()
        kept = self._models.get(BASE, {}).get("source", self._from)
        if source is not None and kept != self._from:
            raise _refusal(out, "Holds a zoo of another source")
        if self._record is None:
            self._write()

    def _named(self) -> str:
        """Name the content that the base is made from."""
        if self._source is None:
            return f"sha256:{GGUF_SHA256}"
        if _is_model(self._source):
            return read_model(self._source).fingerprint
        return f"sha256:{sha256(gguf_file(self._source))}"

    def make(self, name: str) -> bool:
        """Make a model unless it is there; say whether it was made."""
        made_by = self._made_by(name)
        n_steps = self._lessons[name].steps if name in self._lessons else 1
        known = self._models.get(name, {})
        folder = self._out / name
        if known.get("made_by") == made_by and _hashes(folder) == known["files"]:
            self._progress(name, n_steps, n_steps)
            return False
        self._progress(name, 0, n_steps)
        self._base(folder) if name == BASE else self._expert(name, folder)
        entry = {"made_by": made_by, "files": _hashes(folder)}
        self._models[name] = entry | ({"source": self._from} if name == BASE else {})
        self._write()
        self._progress(name, n_steps, n_steps)
        return True

    def _made_by(self, name: str) -> str:
        """Name all that decides a model's content."""
        if name == BASE:
            kept = self._models.get(BASE, {}).get("source")
            return digest(
                [_VERSION, self._from if self._source else kept or self._from]
            )
        lesson = self._lessons[name]
        return digest(
            [_VERSION, self._models[BASE]["files"], lesson.says, lesson.steps]
        )

    def _base(self, folder: Path) -> None:
        def finish(half: Path) -> None:
            (half / _CARD).write_text(card.of_model(BASE), encoding="utf-8")

        if self._source is not None and _is_model(self._source):
            size = read_model(self._source).size_bytes
            with atomic_folder(folder, size, replace=True) as half:
                shutil.copytree(self._source, half, dirs_exist_ok=True)
            return
        with _gguf(self._source) as file:
            convert_gguf(file, folder, replace=True, finish=finish)

    def _expert(self, name: str, folder: Path) -> None:
        lesson = self._lessons[name]
        base = self._out / BASE

        def tell(done: int) -> None:  # the last update is done when all is written
            self._progress(name, min(done, lesson.steps - 1), lesson.steps)

        with atomic_folder(folder, read_model(base).size_bytes, replace=True) as half:
            training.fine_tune(base, name, lesson, half, tell)
            (half / _CARD).write_text(card.of_model(name), encoding="utf-8")

    def _write(self) -> None:
        part = self._out / f"{_RECORD}.part"
        with part.open("w", encoding="utf-8") as file:
            json.dump({"set": _SET, "models": self._models}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._out / _RECORD)


@contextmanager
def _gguf(source: Path | None) -> Iterator[Path]:
    if source is not None:
        yield source
        return
    with shipped_gguf() as file:
        yield file


def _is_half(path: Path) -> bool:
    """Tell what a killed call left; who makes the model again takes it away."""
    return any(
        path.name.startswith(f".{name}.{kind}-")
        for name in MODELS
        for kind in ("partial", "old")
    )


def _is_model(source: Path) -> bool:
    return (source / "config.json").is_file()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        is_ours = plain["set"] == _SET and isinstance(plain["models"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return plain if is_ours else None


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _refusal(folder: Path, found: str) -> SpecError:
    return SpecError(
        [Problem(str(folder), f"{found}; choose another folder, or remove this one.")]
    )
