"""Exports that are killed: when that counts as an opening of the held-out items."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.study_files import simulated_study, write_models, write_study

from evomerge import api
from evomerge.scoring.evaluator import Evaluator


@pytest.fixture
def searched(tmp_path: Path) -> tuple[str, Path]:
    """A searched study: its database and the cache folder."""
    models = write_models(tmp_path / "models")
    file = write_study(tmp_path / "mine.yaml", simulated_study(models))
    db, cache = f"sqlite:///{tmp_path}/mine.db", tmp_path / "cache"
    api.search(api.prepare(file, db=db, where=api.Where(None, None, True, cache)))
    return db, cache


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(n: int, do: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method work so often, and die at the next call."""
    calls = iter(range(n + 1))

    def method(*given: Any, **named: Any) -> Any:
        if next(calls) == n:
            die()
        return do(*given, **named)

    return method


@pytest.mark.parametrize(
    ("part", "n_calls", "openings"),
    [("ready", 0, 0), ("score", 0, 0), ("score", 1, 1), ("score", 4, 1)],
)
def test_a_killed_export_is_an_opening_only_if_it_scored(
    searched: tuple[str, Path], tmp_path: Path, part: str, n_calls: int, openings: int
) -> None:
    db, cache = searched
    wanted = api.Export(None, tmp_path / "out")
    if (pid := os.fork()) == 0:
        try:
            setattr(Evaluator, part, after(n_calls, getattr(Evaluator, part)))
            api.export("mine", wanted, db=db, cache_dir=cache)
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert api.status("mine", db=db).openings == openings
    done = api.export("mine", wanted, db=db, cache_dir=cache)
    assert done.openings == openings + 1
    again = api.export("mine", api.Export(None, tmp_path / "b"), db=db, cache_dir=cache)
    assert again.openings == openings + 2
    assert again.rivals == done.rivals
