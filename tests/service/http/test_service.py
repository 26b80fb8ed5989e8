"""A service over HTTP: submit, look, pause, cancel, resume, and a job that runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.databases import KINDS
from support.services import Service, files_of, serving, wait_for
from support.study_files import simulated_study, write_models

from evomerge import __version__


@pytest.fixture
def service(any_url: str, tmp_path: Path) -> Iterator[Service]:
    with serving(any_url, tmp_path / "spool") as found:
        yield found


def test_a_study_is_submitted_once_however_often_it_is_sent(service: Service) -> None:
    first = service.submit("a", {"name": "a"}, priority=2, place={"workers": 3})
    assert first.status == 201
    assert first.headers["x-evomerge-version"] == __version__
    job = first.data
    assert (job["address"], job["state"]) == ("ann/a", "queued")
    assert (job["priority"], job["place"]) == (2, {"workers": 3})
    assert "id" not in job
    again = service.submit("a", {"name": "a"}, priority=2, place={"workers": 3})
    assert (again.status, again.data) == (200, job)
    other = service.submit("a", {"name": "a", "seed": 3}, priority=2)
    assert other.status == 409
    said = {problem["where"]: problem["message"] for problem in other.data["problems"]}
    assert "line 1" in said["study.yaml"]
    assert "workers" in said


def test_what_is_wanted_of_a_job_is_done(service: Service) -> None:
    service.submit("a", {"name": "a"})
    for verb, state in (
        ("pause", "paused"),
        ("resume", "queued"),
        ("cancel", "cancelled"),
        ("cancel", "cancelled"),
    ):
        done = service.call("POST", f"/v1/studies/a/{verb}")
        assert (done.status, done.data["state"]) == (200, state)
    more = {"budget": {"trials": 40}, "priority": 4}
    done = service.call("POST", "/v1/studies/a/resume", more)
    assert (done.data["budget"], done.data["priority"]) == ({"trials": 40}, 4)
    less = service.call("POST", "/v1/studies/a/resume", {"budget": {"trials": 4}})
    assert less.status == 422
    (said,) = less.data["problems"]
    assert said["where"] == "budget.trials"
    assert said["message"] == "expected at least the 40 that it has, got 4"


def test_jobs_are_listed_page_by_page(service: Service) -> None:
    for name in "abc":
        service.submit(name, {"name": name})
    service.submit("d", {"name": "d"}, who="bob")
    first = service.call("GET", "/v1/studies?limit=2").data
    assert [job["name"] for job in first["jobs"]] == ["a", "b"]
    then = service.call("GET", f"/v1/studies?limit=2&after={first['next']}").data
    assert [job["name"] for job in then["jobs"]] == ["c"]
    assert then["next"] is None
    service.call("POST", "/v1/studies/b/pause")
    found = service.call("GET", "/v1/studies?state=paused&state=failed").data
    assert [job["name"] for job in found["jobs"]] == ["b"]
    found = service.call("GET", "/v1/studies?filter=state%3Dqueued&limit=1").data
    assert [job["name"] for job in found["jobs"]] == ["a"]
    assert len(service.call("GET", "/v1/studies", who="root").data["jobs"]) == 4
    assert service.call("GET", "/v1/studies?user=bob").data["jobs"] == []


def test_whoever_asks_is_told_who_they_are(service: Service) -> None:
    assert service.call("GET", "/v1/me", who="root").data == {
        "user": "root",
        "role": "admin",
        "scopes": ["operate", "read", "write"],
        "version": __version__,
    }


def test_health_needs_no_token(service: Service) -> None:
    for path in ("/healthz", "/readyz"):
        found = service.call("GET", path, who=None)
        assert (found.status, found.data) == (200, {"status": "ok"})


@pytest.mark.timeout(200)
@pytest.mark.parametrize("kind", KINDS)
def test_a_submitted_study_is_run_to_its_end(
    kind: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url = f"sqlite:///{tmp_path}/jobs.db"
    if kind == "postgres":
        url = request.getfixturevalue("postgres_url")
    study = simulated_study(write_models(tmp_path / "models"), name="real")
    with serving(url, tmp_path / "spool", capacity=1) as service:
        checked = service.call("POST", "/v1/check", {"files": files_of(study)})
        assert checked.data == {"study": "real", "problems": [], "warnings": []}
        assert service.submit("mine", study).status == 201
        wait_for(lambda: service.state("mine") in ("finished", "failed"), 120)
        job = service.call("GET", "/v1/studies/mine").data
        assert (job["state"], job["why"]) == ("finished", None)
        rows = service.call("GET", "/v1/studies/mine/trials").data["rows"]
        assert len(rows) >= 6
        status = service.call("GET", "/v1/studies/mine/status").data["rows"]
        assert status["name"] == "real"
        assert service.call("GET", "/v1/studies/mine/front").data["rows"]
        assert service.call("GET", "/v1/studies/mine/attempts").data["rows"]
        events = service.call("GET", "/v1/studies/mine/events").data["events"]
        kinds = [event["kind"] for event in events]
        assert kinds == ["submitted", "claimed", "started", "ended"]
        log = service.call("GET", "/v1/studies/mine/logs")
        assert b"real" in log.text
        assert int(log.headers["x-next"]) == len(log.text)
