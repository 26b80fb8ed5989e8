"""Making a zoo: train what is missing, write folders and tasks, skip what is there."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from evomerge.errors import Problem, SpecError
from evomerge.zoo.folder import write_model
from evomerge.zoo.model import State
from evomerge.zoo.processes import ExpertProcesses
from evomerge.zoo.progress import OnStep
from evomerge.zoo.recipes import BASE, EXPERTS, MODELS, RECIPES, ZooRecipe
from evomerge.zoo.record import WORK, Record, locked, prepare
from evomerge.zoo.tasks import write_tasks
from evomerge.zoo.training import train


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
