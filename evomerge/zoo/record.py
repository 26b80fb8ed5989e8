"""What a folder says of itself: a complete zoo, one begun, another, or no zoo."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from evomerge.errors import Problem, SpecError
from evomerge.zoo.recipes import MODELS

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
