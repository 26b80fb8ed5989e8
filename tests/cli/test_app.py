"""How commands end, which database they use, and what they never print."""

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from support.study_files import simulated_study, write_study

from evomerge import errors
from evomerge.cli import studies
from evomerge.cli.app import app
from evomerge.errors import EvomergeError, Problem, SpecError
from evomerge.store.sql import open_store

SECRET = "hunter2"


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch):
    """A command that ends as told."""

    def failing(error: BaseException) -> str:
        @click.command()
        def end() -> None:
            raise error

        monkeypatch.setitem(app.commands, "end", end)
        return "end"

    return failing


def test_done_is_code_0(call) -> None:
    ended = call("--version")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("evomerge, version ")


@pytest.mark.parametrize(
    "words",
    [
        ("no-such-command",),
        ("run",),
        ("run", "a.yaml", "--workers", "0"),
        ("resume", "a", "--trials", "0"),
        ("status", "a", "--no-such-option"),
        ("export", "a", "out", "--shard-gb", "0"),
    ],
)
def test_a_command_that_is_written_wrong_is_code_2(call, words) -> None:
    ended = call(*words)
    assert ended.code == 2
    assert "Error: " in ended.err
    assert "Traceback" not in ended.err


def test_ctrl_c_is_code_130(call, failing) -> None:
    ended = call(failing(KeyboardInterrupt()))
    assert ended.code == 130
    assert "Stopped." in ended.err


def test_a_folder_that_cannot_be_used_is_code_2_and_named(call, failing) -> None:
    ended = call(failing(PermissionError(13, "Permission denied", "/data/x.db")))
    assert ended.code == 2
    assert "Error: /data/x.db: Permission denied" in ended.err


def every_error(kind: type[EvomergeError]) -> Iterator[type[EvomergeError]]:
    yield kind
    for more in kind.__subclasses__():
        if more.__module__ == errors.__name__:
            yield from every_error(more)


CODES = {
    errors.ReplayError: 3,
    errors.StudyLockedError: 75,
    errors.StoreUnreachableError: 75,
    errors.ClusterUnreachableError: 75,
    errors.BusyError: 75,
    errors.WorkerError: 75,
    errors.SelfTestError: 75,
    errors.StaleAttemptError: 75,
    errors.LeaseLostError: 76,
}


@pytest.mark.parametrize("kind", sorted(every_error(EvomergeError), key=str))
def test_an_error_says_in_its_code_what_to_do_next(call, failing, kind) -> None:
    told = [Problem("study.yaml", "it is so")] if kind is SpecError else "it is so"
    ended = call(failing(kind(told)))
    assert ended.code == CODES.get(kind, 2)
    assert ended.err.startswith("Error: ")
    assert ended.err.endswith("it is so\n")


def test_a_defect_is_code_1_with_its_traceback_but_no_password(call, failing) -> None:
    ended = call(failing(ZeroDivisionError(f"postgresql://me:{SECRET}@host/db")))
    assert ended.code == 1
    assert "ZeroDivisionError" in ended.err
    assert "Traceback" in ended.err
    assert SECRET not in ended.err


def test_the_database_is_the_option_then_the_environment_then_a_file_here(
    call, here: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names(file: str) -> list[str]:
        if not (here / file).exists():
            return []
        store = open_store(f"sqlite:///{here / file}", create=False)
        try:
            return [stored.name for stored in store.studies()]
        finally:
            store.close()

    for name in ("local", "environment", "option"):
        study = simulated_study(models, name=name, budget={"trials": 1})
        write_study(here / f"{name}.yaml", study)
    assert call("run", "local.yaml", "--in-process").code == 0
    monkeypatch.setenv("EVOMERGE_DB", "sqlite:///b.db")
    assert call("run", "environment.yaml", "--in-process").code == 0
    option = ("--db", "sqlite:///c.db")
    assert call("run", "option.yaml", "--in-process", *option).code == 0
    found = names("evomerge.db"), names("b.db"), names("c.db")
    assert found == (["local"], ["environment"], ["option"])
    assert call("status", "environment").code == 0
    assert call("status", "option", *option).code == 0
    assert call("status", "option").code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("status", "a"),
        ("front", "a", "--json"),
        ("trials", "a"),
        ("run", "study.yaml", "--in-process"),
        ("resume", "a"),
        ("check", "study.yaml", "--no-dry-run"),
        ("export", "a", "out"),
        ("doctor",),
    ],
)
@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{SECRET}@host/db",
        f"sqlite:///studies.db?password={SECRET}",
        f"nonsense://me:{SECRET}@",
    ],
)
def test_the_password_of_a_database_is_never_printed(
    call, here: Path, models: Path, words, url: str
) -> None:
    write_study(here / "study.yaml", simulated_study(models))
    ended = call("--verbose", *words, "--db", url)
    assert SECRET not in ended.out + ended.err
    assert "Traceback" not in ended.err


def test_the_password_is_not_in_the_line_that_says_how_to_resume(
    call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evomerge import api

    where = api.Where(None, None, True, Path("cache"))
    url = f"postgresql://me:{SECRET}@host/db"
    prepared = api.Prepared("mine", ("score",), url, where, None, {})  # type: ignore[arg-type]
    monkeypatch.setattr(api, "take_up", lambda *_, **__: prepared)
    monkeypatch.setattr(api, "search", _interrupted)
    ended = call("resume", "mine", "--in-process", "--db", url)
    assert ended.code == 130
    assert "evomerge resume mine --db" in ended.err
    assert SECRET not in ended.err


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_study_name_that_is_unknown_is_told_with_the_database(call, here) -> None:
    open_store("sqlite:///evomerge.db").close()
    for command in (studies.status, studies.front, studies.trials):
        ended = call(command.name, "nobody")
        assert ended.code == 2
        assert "nobody" in ended.err


def test_no_database_is_made_by_only_looking(call, here: Path) -> None:
    ended = call("status", "a")
    assert ended.code == 2
    assert "evomerge.db" in ended.err
    assert list(here.iterdir()) == []
