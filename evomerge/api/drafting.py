"""Begin a study: a commented file for given models and tasks that passes the check."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from evomerge.checkpoints import Model, compatibility
from evomerge.checkpoints.configs.meanings import KINDS
from evomerge.checkpoints.simulated_model import is_simulated
from evomerge.core.survey import TaskFacts
from evomerge.core.work import TaskSettings
from evomerge.errors import CheckpointError, Problem, SpecError
from evomerge.scoring.simulated.landscape import TASK
from evomerge.scoring.survey import Surveyor
from evomerge.specs.draft import Draft, DraftTask, draft_text
from evomerge.specs.sources import is_folder, open_pair, source_folder, split

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_ALLOWED = tuple(kind for kind in KINDS if kind != "family")
"""What a draft may allow: models of two families are never its own idea."""
_PREFERRED = ("exact_match,flexible-extract", "exact_match", "acc_norm", "acc")


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a study is to be about.

    Attributes:
        models: Name to folder or hub id.
        tasks: Names in lm-eval, or ``simulated``.
        base: The model that the others began from, if any.
        include: Folder of task files of one's own, if any.
        engine: Its kind; None for vLLM, or transformers where that is not installed.
        trials: Candidates to try.
    """

    models: Mapping[str, str]
    tasks: Sequence[str]
    base: str | None = None
    include: Path | None = None
    engine: str | None = None
    trials: int = 200


@dataclass(frozen=True, slots=True)
class Begun:
    """A study file that was written.

    Attributes:
        file: As it was named.
        strategy: Who will propose candidates.
        notes: What was found out about the models, and what is to be looked at.
    """

    file: str
    strategy: str
    notes: tuple[str, ...]


def init(file: Path, wanted: Beginning, *, cache_dir: Path) -> Begun:
    """Write a study file; one that is there already is left alone.

    Raises:
        SpecError: Every mistake in names, models and tasks; or the file exists.
    """
    _refuse_wrong_names(wanted)
    if file.exists():
        raise SpecError(
            [Problem(str(file), "expected a new file; this one exists. Name another.")]
        )
    looked = _Looked.at(wanted, cache_dir)
    draft = Draft(
        sources=_as_written_from(file.parent, wanted.models),
        base=wanted.base,
        n_layers=looked.n_layers,
        same_depth=looked.same_depth,
        tasks=_tasks(file.parent, wanted, cache_dir),
        engine=wanted.engine or _engine(wanted.tasks),
        trials=wanted.trials,
        vocabulary=looked.vocabulary,
        allow=looked.allow,
    )
    with file.open("x", encoding="utf-8") as stream:
        stream.write(draft_text(draft))
    return Begun(str(file), draft.strategy, looked.notes)


def _refuse_wrong_names(wanted: Beginning) -> None:
    wrong = [
        Problem(f"model {name}", "expected letters, digits, - and _, a letter first.")
        for name in wanted.models
        if not _NAME.fullmatch(name)
    ]
    if wanted.base is not None and wanted.base not in wanted.models:
        known = ", ".join(wanted.models)
        wrong.append(
            Problem("base", f"expected one of the models, {known}; got {wanted.base!r}")
        )
    if wanted.base is not None and len(wanted.models) == 1:
        wrong.append(Problem("base", "expected another model to merge with it."))
    if wrong:
        raise SpecError(wrong)


@dataclass(frozen=True, slots=True)
class _Looked:
    """What the models are, as far as they are on this machine."""

    n_layers: int | None
    same_depth: bool
    vocabulary: bool
    allow: tuple[str, ...]
    notes: tuple[str, ...]

    @classmethod
    def at(cls, wanted: Beginning, cache_dir: Path) -> _Looked:
        models, absent = _opened(wanted, cache_dir)
        notes = [
            f"{name} is not on this machine: `evomerge check` fetches and compares it."
            for name in absent
        ]
        if not models:
            return cls(None, True, False, (), tuple(notes))
        same_depth = len({model.n_layers for model in models.values()}) == 1
        same_vocabulary = not _differ(models, same_depth, True, _ALLOWED)
        if found := _differ(models, same_depth, False, _ALLOWED):
            raise SpecError(Problem("models", said) for said in found)
        allow = tuple(
            kind
            for kind in _ALLOWED
            if _differ(models, same_depth, False, [k for k in _ALLOWED if k != kind])
        )
        first = next(iter(models.values()))
        notes.insert(0, _family(models, same_depth))
        if allow:
            odd = _differ(models, same_depth, False, ())
            notes += [f"{said.partition(' To merge them')[0]}" for said in odd]
        if not same_vocabulary:
            notes.append("Their tokenizers differ: see `vocabulary` in the file.")
        return cls(first.n_layers, same_depth, not same_vocabulary, allow, tuple(notes))


def _differ(
    models: Mapping[str, Model],
    same_depth: bool,
    same_vocabulary: bool,
    allow: Sequence[str],
) -> list[str]:
    return compatibility(
        models, same_depth=same_depth, same_vocabulary=same_vocabulary, allow=allow
    )


def _family(models: Mapping[str, Model], same_depth: bool) -> str:
    first = next(iter(models.values()))
    depths = sorted({model.n_layers for model in models.values()})
    layers = " and ".join(map(str, depths))
    family = first.architecture.removesuffix("ForCausalLM")
    fit = "can be merged" if same_depth else "can give layers to a stack"
    many = len(models) > 1
    return f"{family}, {layers} layers" + (f": they {fit}." if many else ".")


def _opened(
    wanted: Beginning, cache_dir: Path
) -> tuple[dict[str, Model], tuple[str, ...]]:
    """Read the models that are here, the base first; nothing is fetched."""
    names = sorted(wanted.models, key=lambda name: name != wanted.base)
    models: dict[str, Model] = {}
    absent: list[str] = []
    wrong: list[Problem] = []
    for name in names:
        parts = split(wanted.models[name], Path.cwd())
        if not all(part is None or _is_here(part) for part in parts):
            if _is_path(wanted.models[name]):
                said = f"there is no folder {wanted.models[name]!r}."
                wrong.append(Problem(f"model {name}", said))
            absent.append(name)
            continue
        try:
            models[name] = open_pair(*parts, Path.cwd(), cache_dir=cache_dir)
        except CheckpointError as error:
            wrong.append(Problem(f"model {name}", str(error)))
    if wrong:
        raise SpecError(wrong)
    return models, tuple(absent)


def _is_here(part: str) -> bool:
    return is_simulated(part) or is_folder(source_folder(part, Path.cwd()))


def _is_path(written: str) -> bool:
    """Tell what can only be a path from what may be a hub id."""
    return written.startswith((".", "/", "~")) or written.count("/") != 1


def _as_written_from(folder: Path, models: Mapping[str, str]) -> dict[str, str]:
    """Return models as a file in that folder writes them."""
    out: dict[str, str] = {}
    for name, written in models.items():
        parts = [part for part in split(written, Path.cwd()) if part is not None]
        out[name] = "+".join(_beside(part, folder) for part in parts)
    return out


def _beside(part: str, folder: Path) -> str:
    path = source_folder(part, Path.cwd())
    if is_simulated(part) or not path.is_dir() or part.startswith(("/", "~")):
        return part
    return Path(os.path.relpath(path, folder.absolute())).as_posix()


def _engine(tasks: Sequence[str]) -> str:
    if all(task == TASK for task in tasks):
        return "simulated"
    return "vllm" if find_spec("vllm") else "hf"


def _tasks(folder: Path, wanted: Beginning, cache_dir: Path) -> tuple[DraftTask, ...]:
    include = None if wanted.include is None else str(wanted.include.absolute())
    names = {_task_name(task): task for task in wanted.tasks}
    found = Surveyor(cache_dir)(
        [
            TaskSettings(name, task, include_path=None if task == TASK else include)
            for name, task in names.items()
        ]
    )
    if found.problems:
        raise SpecError(
            Problem(f"task {problem.where}", problem.message)
            for problem in found.problems
        )
    beside = None if wanted.include is None else _beside(str(wanted.include), folder)
    return tuple(
        DraftTask(
            name,
            task,
            _metric(name, found.facts[name]),
            None if task == TASK else beside,
        )
        for name, task in names.items()
    )


def _task_name(task: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]", "_", task)[:64]
    return name if _NAME.fullmatch(name) else f"task_{name}"[:64]


def _metric(name: str, facts: TaskFacts) -> str:
    """Return the usual one of a task's metrics."""
    known = list(facts.senses)
    if not known:
        raise SpecError(
            [Problem(f"task {name}", "expected a task with a metric that is a mean.")]
        )
    return next((metric for metric in _PREFERRED if metric in known), known[0])
