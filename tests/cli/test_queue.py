"""Jobs of the database's queue: resumed and deleted by the words for studies."""

import json
from pathlib import Path

import pytest
from support.study_files import simulated_study, write_study

from evomerge.cli.verbs import jobs
from evomerge.service.local import local_desk
from evomerge.store.queue.ending import ProcessEnd
from evomerge.store.queue.job_queue import open_queue


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "TAKEN_WITHIN_S", 0.0)


@pytest.fixture
def queued(call, here: Path, models: Path) -> str:
    """A study whose job was paused after its search was begun."""
    file = write_study(here / "mine.yaml", simulated_study(models))
    assert call("submit", file).code == 0
    assert call("run", file, "--in-process").code == 0
    assert call("pause", "mine").code == 0
    return f"sqlite:///{here}/evomerge.db"


def state(db: str) -> str:
    with local_desk(db, create=False) as desk:
        return desk.job("mine").state.value


def test_a_paused_job_is_queued_again_and_the_next_step_is_told(
    call, queued: str
) -> None:
    said = call("resume", "mine", "--trials", "40", "--priority", "2")
    assert said.code == 0
    assert said.out.splitlines()[0].endswith("/mine is queued.")
    assert said.out.splitlines()[1].endswith("Run: evomerge serve --db URL")
    found = json.loads(call("resume", "mine", "--json").out)
    assert (found["state"], found["budget"]) == ("queued", {"trials": 40})
    assert call("resume", "mine", "--trials", "4").code == 2


def test_a_study_goes_on_from_here_if_that_is_said_or_its_job_is_at_work(
    call, queued: str
) -> None:
    assert "trial budget used" in call("resume", "mine", "--in-process").out
    assert state(queued) == "paused"
    queue = open_queue(queued, create=False)
    assert call("resume", "mine").code == 0
    claim = queue.claim("test")
    assert claim is not None
    # So does the process that a supervisor starts, which names no place either.
    assert "RAY" not in call("resume", "mine", "--in-process").err
    with local_desk(queued, create=False):
        assert not jobs.resume_queued("mine", {}, None, queued, False)
    queue.ended(claim, ProcessEnd(0, ""))
    queue.close()
    assert call("resume", "mine").code == 2  # it has finished, and has no more budget


def test_a_job_goes_with_its_study_once_it_has_ended(
    call, here: Path, queued: str
) -> None:
    refused = call("delete", "mine", "--yes")
    assert refused.code == 2
    assert "only one that has ended can be deleted" in refused.err
    assert call("cancel", "mine").code == 0
    assert "Nobody is there to answer" in call("delete", "mine").err
    assert "with its study, log and exports" in call("delete", "mine", "--yes").out
    assert json.loads(call("ps", "-a", "--json").out) == []
    assert json.loads(call("studies", "--json").out) == []
