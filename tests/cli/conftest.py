"""The command line called in this process, and models for it to merge."""

import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.study_files import simulated_study, write_models, write_study

from evomerge import api
from evomerge.cli.app import main


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Call = Callable[..., Ended]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with a cache of its own."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.fixture(scope="session")
def finished(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``mine.yaml`` and the database of its finished search."""
    folder = tmp_path_factory.mktemp("finished")
    file = write_study(folder / "mine.yaml", simulated_study(models))
    where = api.Where(None, None, True, tmp_path_factory.mktemp("cache"))
    api.search(api.prepare(file, db=f"sqlite:///{folder / 'evomerge.db'}", where=where))
    return folder


@pytest.fixture
def done(here: Path, finished: Path) -> Path:
    """A folder to work in, in which the study ``mine`` has been searched."""
    shutil.copytree(finished, here, dirs_exist_ok=True)
    return here


@pytest.fixture
def call(here: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Call a command as a shell would, and return its exit code and output."""

    def call(*words: object) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        text = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, text.out, text.err)

    yield call
    logger = logging.getLogger("evomerge")
    logger.handlers[:] = []
    logger.propagate = True
