"""A study file and the files it names, put together so that they can be sent.

The files keep their places towards each other, below the folder that has them all; the
study file alone moves, to the top, and the names in it are written anew where that is
needed. Nothing else in it changes, comments included. Models are not sent: a source
stays a name, and a folder that is here becomes an absolute path, which must be there
too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from evomerge.client.models_named import model_folder, models_of_recipe
from evomerge.errors import Problem, SpecError
from evomerge.specs.reading.rewriting import Text, Value
from evomerge.store.queue.bundle import MAX_BYTES, MAX_FILES, STUDY_FILE, Bundle

_SKIPPED = ("__pycache__",)
_MOST_SEEN = 10_000
_TOLD = 5


@dataclass(frozen=True, slots=True)
class Bundled:
    """What is to be sent.

    Attributes:
        name: Of the study.
        folders: Models that are folders here; they must be there too.
        file: What the study file is called here.
    """

    name: str
    bundle: Bundle
    folders: tuple[str, ...]
    file: str

    def own(self, problems: Iterable[Problem]) -> list[Problem]:
        """Return problems of the bundle with the name that the study file has here."""
        return [self._own(problem) for problem in problems]

    def _own(self, problem: Problem) -> Problem:
        file, colon, key = problem.where.partition(":")
        if file != STUDY_FILE:
            return problem
        is_here = problem.file == STUDY_FILE
        return replace(
            problem,
            where=f"{self.file}{colon}{key}",
            file=self.file if is_here else problem.file,
        )


@dataclass(frozen=True, slots=True)
class _Named:
    """A file or folder that a text names."""

    text: Text
    at: Path
    value: Value
    target: Path


def name_of(files: Mapping[str, bytes]) -> str:
    """Return the name that a bundle's study file gives its study.

    Raises:
        SpecError: There is no study file, or it is no YAML.
    """
    if STUDY_FILE not in files:
        Bundle(files)  # says so
    text = Text(_decoded(files[STUDY_FILE], STUDY_FILE), STUDY_FILE)
    return _name(text) or Path(STUDY_FILE).stem


def bundled(study: Path) -> Bundled:
    """Read a study file and what it names: evaluators, tasks and recipes.

    Raises:
        SpecError: A file is missing, unreadable or too large; says each mistake.
    """
    return _Bundling(study).done()


class _Bundling:
    """Collects the files of one study, and every mistake on the way."""

    def __init__(self, study: Path) -> None:
        self._study = Path(os.path.normpath(study.absolute()))
        self._problems: list[Problem] = []
        self._contents: dict[Path, bytes] = {}
        self._texts: dict[Path, Text] = {}
        self._named: list[_Named] = []
        self._folders: dict[str, None] = {}

    def done(self) -> Bundled:
        """Read everything, and put it together."""
        study = self._read(self._study)
        if study is None:
            raise SpecError(self._problems)
        self._take(study)
        if self._problems:
            raise SpecError(self._problems)
        files = self._placed(study)
        name = _name(study) or self._study.stem
        return Bundled(name, Bundle(files), tuple(self._folders), self._study.name)

    def _take(self, study: Text) -> None:
        """Take what a study file names."""
        (root,) = study.values[:1]
        for key, value in _all(root, "sources"):
            self._model(study, self._study, value, f"sources.{key}")
        for entry in _items(root, "evaluators"):
            file = entry if entry.text is not None else entry.at("file")
            if (path := self._file(study, self._study, file)) is not None:
                self._evaluators(path)
        self._tasks(study, self._study)
        stages = _items(root, "stages")
        starts = [_items(part, "start") for part in (root, *stages)]
        for start in (one for some in starts for one in some):
            path = self._file(study, self._study, start.at("recipe"))
            if path is not None:
                self._recipe(path)

    def _evaluators(self, path: Path) -> None:
        if (text := self._read(path)) is not None:
            self._tasks(text, path)

    def _tasks(self, text: Text, at: Path) -> None:
        for _, task in _all(text.values[0], "tasks"):
            value = task.at("include")
            target = self._target(text, at, value)
            if value is None or target is None:
                continue
            if not target.is_dir():
                said = f"expected a folder of task files, got {value.text!r:.200}"
                self._problems.append(text.problem(value.key, f"{said}: no folder."))
                continue
            self._named.append(_Named(text, at, value, target))
            self._gather(target, text, value)

    def _gather(self, folder: Path, text: Text, value: Value) -> None:
        """Take every file below a folder."""
        found = []
        for number, path in enumerate(_below(folder)):
            if number > _MOST_SEEN:
                break
            if path.is_symlink():
                said = f"{path} is a link; put the file itself there"
                self._problems.append(text.problem(value.key, said))
            elif path.is_file():
                found.append(path)
        new = [path for path in found if path not in self._contents]
        if len(new) + len(self._contents) > MAX_FILES:
            said = (
                f"{folder} holds {len(found)} files; at most {MAX_FILES} are sent, all "
                "together. Give a folder that holds the task files and no more"
            )
            self._problems.append(text.problem(value.key, said))
            return
        sizes = {path: path.stat().st_size for path in new}
        if sum(sizes.values()) > MAX_BYTES:
            largest = sorted(sizes, key=lambda path: -sizes[path])[:_TOLD]
            names = ", ".join(f"{p.name} ({sizes[p] / 1e6:.1f} MB)" for p in largest)
            said = (
                f"the files in {folder} are too large: at most {MAX_BYTES >> 20} MiB "
                f"are sent, all together. The largest: {names}. Put data where workers "
                "find it, and name it by an absolute path or a hub id"
            )
            self._problems.append(text.problem(value.key, said))
            return
        for path in new:
            self._contents[path] = path.read_bytes()

    def _recipe(self, path: Path) -> None:
        if (text := self._read(path)) is None:
            return
        for value in models_of_recipe(text):
            self._model(text, path, value, value.key, is_recipe=True)

    def _model(
        self, text: Text, at: Path, value: Value, key: str, *, is_recipe: bool = False
    ) -> None:
        """Write a model's folder as an absolute path."""
        written = value.text
        if written is None:
            return
        meant = model_folder(written, at.parent, is_sure=not is_recipe)
        if meant != written:
            self._edit(text, value, meant)
        if meant.startswith("/"):
            self._folders[meant] = None

    def _file(self, text: Text, at: Path, value: Value | None) -> Path | None:
        """Take a file that a text names; None if there is none."""
        target = self._target(text, at, value)
        if value is None or target is None:
            return None
        if not target.is_file():
            said = f"expected a file, got {value.text!r:.200}, which does not exist."
            self._problems.append(text.problem(value.key, said))
            return None
        self._named.append(_Named(text, at, value, target))
        return target

    def _target(self, text: Text, at: Path, value: Value | None) -> Path | None:
        written = None if value is None else value.text
        if not written or "\0" in written:
            return None  # whoever reads the file says what is wrong with it
        path = at.parent / Path(written).expanduser()
        return Path(os.path.normpath(path))

    def _read(self, path: Path) -> Text | None:
        """Read a text once; None if it cannot be."""
        if path in self._texts:
            return self._texts[path]
        try:
            content = path.read_bytes() if path.stat().st_size <= MAX_BYTES else None
        except OSError as error:
            said = f"cannot be read: {error.strerror or error}."
            self._problems.append(Problem(path.name, said))
            return None
        if content is None:
            said = f"is too large; at most {MAX_BYTES >> 20} MiB are sent, all together"
            self._problems.append(Problem(path.name, said))
            return None
        try:
            text = Text(_decoded(content, path.name), path.name)
        except SpecError as error:
            self._problems += error.problems
            return None
        self._contents[path], self._texts[path] = content, text
        return text

    def _placed(self, study: Text) -> dict[str, bytes]:
        """Return every file under its name in the bundle, names in them written anew.

        Raises:
            SpecError: Two files have one name there, or one cannot be rewritten.
        """
        root = Path(
            os.path.commonpath(
                [self._study.parent, *(p.parent for p in self._contents)]
            )
        )
        names = {path: path.relative_to(root).as_posix() for path in self._contents}
        names[self._study] = STUDY_FILE
        for named in self._named:
            target = named.target.relative_to(root).as_posix()
            if named.target in names:
                target = names[named.target]
            here = os.path.dirname(names[named.at])  # noqa: PTH120 - a name, no path
            meant = Path(os.path.relpath(target, here or ".")).as_posix()
            if os.path.normpath(named.value.text or "") != meant:
                self._edit(named.text, named.value, meant)
        if _name(study) is None:
            study.add("name", self._study.stem)
        if self._problems:
            raise SpecError(self._problems)
        taken = [p for p, name in names.items() if name == STUDY_FILE]
        if len(taken) > 1:
            said = f"{taken[0]} would have the name of the study file; rename it"
            raise SpecError([Problem(self._study.name, said)])
        return {
            names[path]: self._texts[path].text.encode()
            if path in self._texts and self._texts[path].is_changed
            else content
            for path, content in self._contents.items()
        }

    def _edit(self, text: Text, value: Value, new: str) -> None:
        try:
            text.replace(value, new)
        except SpecError as error:
            self._problems += error.problems


def _name(study: Text) -> str | None:
    value = study.values[0].at("name")
    return None if value is None else str(value.node.value)


def _all(root: Value, key: str) -> list[tuple[str, Value]]:
    found = root.at(key)
    return [] if found is None else list(found.entries())


def _items(root: Value, key: str) -> list[Value]:
    found = root.at(key)
    return [] if found is None else list(found.items())


def _below(folder: Path) -> Iterator[Path]:
    """Yield what is below a folder and is not hidden, in a fixed order."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in _SKIPPED:
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _below(path)
        else:
            yield path


def _decoded(content: bytes, file: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        said = "expected text in UTF-8; save the file as such."
        raise SpecError([Problem(file, said)]) from error
