"""Making a zoo: train what is missing, write folders and tasks, skip what is there.

A record tells what a folder is: a complete zoo, one begun, another, or no zoo.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

from evomerge.errors import Problem, SpecError
from evomerge.zoo.folder import write_model
from evomerge.zoo.model import State
from evomerge.zoo.processes import ExpertProcesses
from evomerge.zoo.recipes import BASE, EXPERTS, MODELS, RECIPES, ZooRecipe
from evomerge.zoo.tasks import write_tasks
from evomerge.zoo.training import OnStep, train

RECORD = "zoo.json"
WORK = ".work"
_LOCK = ".lock"
_OURS = frozenset({*MODELS, "tasks", RECORD, f"{RECORD}.part", WORK, _LOCK})


@dataclass(frozen=True, slots=True)
class Record:
    """Which zoo a folder holds; written last, so it is there only if all else is.

    Attributes:
        recipe: Its name.
        seed: The zoo's seed.
        digest: Of the recipe and the version of the code.
    """

    recipe: str
    seed: int
    digest: str

    def write(self, folder: Path) -> None:
        """Record the zoo and the hash of its every file; atomic."""
        plain = {
            "recipe": self.recipe,
            "seed": self.seed,
            "digest": self.digest,
            "files": {str(p.relative_to(folder)): _sha256(p) for p in _files(folder)},
        }
        part = folder / f"{RECORD}.part"
        with part.open("w", encoding="utf-8") as file:
            json.dump(plain, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        part.replace(folder / RECORD)


def prepare(folder: Path, expected: Record) -> bool:
    """Make a folder ready for a zoo; say whether it has to be built.

    Args:
        folder: Exists, and its lock is held.
        expected: The zoo that is wanted.

    Returns:
        False if the very zoo is there, whole. True if it is not; then the folder is
        empty but for the lock and the place for work in progress.

    Raises:
        SpecError: The folder holds something that no zoo has, or a zoo of another
            recipe or seed; nothing was touched.
    """
    foreign = sorted({path.name for path in folder.iterdir()} - _OURS)
    known = {path.name for path in folder.iterdir()} - {_LOCK}
    found = _read(folder)
    begun = found is not None or (folder / WORK).is_dir()
    if foreign or (known and not begun):
        names = ", ".join(map(repr, foreign or sorted(known)))
        raise _refusal(
            folder, f"Expected a new or empty folder or a zoo, but found {names}"
        )
    if found is not None:
        record, files = found
        if (record.recipe, record.seed) != (expected.recipe, expected.seed):
            raise _refusal(
                folder,
                f"Holds the zoo {record.recipe} of seed {record.seed}, but "
                f"{expected.recipe} of seed {expected.seed} was wanted",
            )
        if record == expected and files == _hashes(folder, files):
            return False
    (folder / WORK).mkdir(exist_ok=True)  # first: from here on the folder says "begun"
    (folder / RECORD).unlink(missing_ok=True)
    for name in sorted(known - {RECORD, WORK}):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (folder / WORK).iterdir():
        path.unlink()
    return True


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a folder and hold its lock; waits while another process has it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise _refusal(folder, "Expected a folder, but found a file") from None
    with FileLock(folder / _LOCK, fallback_to_soft=False):
        yield


def _refusal(folder: Path, found: str) -> SpecError:
    return SpecError(
        [Problem(str(folder), f"{found}; choose another folder, or remove this one.")]
    )


def _read(folder: Path) -> tuple[Record, dict[str, str]] | None:
    try:
        plain = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        record = Record(plain["recipe"], plain["seed"], plain["digest"])
        return record, dict(plain["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _files(folder: Path) -> list[Path]:
    return sorted(
        path for top in (*MODELS, "tasks") for path in (folder / top).rglob("*.*")
    )


def _hashes(folder: Path, names: dict[str, str]) -> dict[str, str]:
    """Hash the recorded files that are there."""
    there = [name for name in names if (folder / name).is_file()]
    return {name: _sha256(folder / name) for name in there}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class ZooReport:
    """What ``make_zoo`` left.

    Attributes:
        folder: Holds ``base``, ``math``, ``ja``, ``sort`` and ``tasks``.
        recipe: The recipe's name.
        seed: The zoo's seed.
        built: False if the complete zoo was already there.
        seconds: Wall time of the call.
    """

    folder: Path
    recipe: str
    seed: int
    built: bool
    seconds: float

    @property
    def models(self) -> dict[str, Path]:
        """Name to model folder, the base first."""
        return {name: self.folder / name for name in MODELS}

    @property
    def tasks(self) -> Path:
        """Folder of the task files."""
        return self.folder / "tasks"


def make_zoo(
    out: Path,
    *,
    recipe: str = "P128",
    seed: int = 0,
    progress: OnStep | None = None,
) -> ZooReport:
    """Train a zoo from nothing, or find it already made.

    The same recipe and seed give the same bits on the same kind of processor. A zoo
    that was interrupted or damaged is made again; of two callers with one folder, the
    second waits.

    Args:
        out: The zoo's folder: missing, empty, or of an earlier call.
        recipe: ``P128`` (about two minutes on two idle cores), ``L2`` (about half) or
            ``TINY`` (seconds, models that know nothing).
        seed: Decides initial weights, training data and their order; from 0.
        progress: Told of finished steps.

    Raises:
        SpecError: No such recipe, a bad seed, or ``out`` holds something else.
        EvomergeError: Training failed.
    """
    started = time.monotonic()
    chosen = _chosen(recipe, seed)
    expected = Record(chosen.name, seed, chosen.digest)
    with locked(out):
        wanted = prepare(out, expected)
        if wanted:
            _build(out, chosen, seed, progress or _silent)
            expected.write(out)
    seconds = time.monotonic() - started
    return ZooReport(out, chosen.name, seed, wanted, seconds)


def _chosen(recipe: str, seed: int) -> ZooRecipe:
    problems = []
    if recipe not in RECIPES:
        known = ", ".join(RECIPES)
        message = f"Expected one of {known}, got {recipe!r}."
        problems.append(Problem("zoo recipe", message))
    if seed < 0:
        problems.append(Problem("zoo seed", f"Expected 0 or more, got {seed}."))
    if problems:
        raise SpecError(problems)
    return RECIPES[recipe]


def _silent(model: str, done: int, total: int) -> None:
    del model, done, total


def _build(out: Path, recipe: ZooRecipe, seed: int, progress: OnStep) -> None:
    work = out / WORK
    for model, state in _train_all(work, recipe, seed, progress):
        write_model(out / model, state, recipe.shape)
    write_tasks(out / "tasks")
    shutil.rmtree(work)


def _train_all(
    work: Path, recipe: ZooRecipe, seed: int, progress: OnStep
) -> Iterator[tuple[str, State]]:
    """Yield every model's name and weights, the base first."""

    def train_here(model: str, start: State | None) -> State:
        total = recipe.course(model).steps
        with one_thread():
            return train(
                recipe, model, seed, start, lambda done: progress(model, done, total)
            )

    base = train_here(BASE, None)
    yield BASE, base
    if not recipe.side_by_side:
        for expert in EXPERTS:
            yield expert, train_here(expert, base)
        return
    files = {name: work / f"{name}.safetensors" for name in MODELS}
    save_file(base, files[BASE])
    ExpertProcesses(recipe, seed, files, progress).train(files[BASE])
    for expert in EXPERTS:
        yield expert, load_file(files[expert])


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread for a while.

    Another number would add up in another order, and training makes another model of
    a difference in the last bit; two threads also wait for each other on a busy
    machine.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
