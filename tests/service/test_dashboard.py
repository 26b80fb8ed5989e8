"""optuna-dashboard on our tables: it shows a study, and nothing changes it."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.searched import by_hand, contents, search_small

from evomerge import api
from evomerge.core.study import Budget, StrategySettings
from evomerge.errors import SetupError, StudyNotFoundError
from evomerge.service.dashboard import ReadOnlyError, ReadOnlyStorage, make_dashboard
from evomerge.store.sql import open_store
from evomerge.testing.search import SmallStudy

TWO = SmallStudy(StrategySettings("random", 4), Budget(trials=8), objectives=("x", "y"))


class Dashboard:
    """A dashboard that is served."""

    def __init__(self, port: int) -> None:
        self.port = port

    def call(
        self, method: str, path: str, body: Any = None, host: str | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Host": host or f"localhost:{self.port}"}
        sent = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, sent, headers)
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.headers)
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        status, text, _ = self.call("GET", path)
        assert status == 200, text
        return json.loads(text)


@contextmanager
def served(url: str, name: str = "small") -> Iterator[Dashboard]:
    server = make_dashboard(name, db=url)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield Dashboard(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def one_url(searched_file: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    copy = tmp_path_factory.mktemp("one") / "one.db"
    shutil.copy(searched_file, copy)
    return f"sqlite:///{copy}"


@pytest.fixture(scope="module")
def one(one_url: str) -> Iterator[Dashboard]:
    with served(one_url) as made:
        yield made


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    folder = tmp_path_factory.mktemp("two")
    search_small(f"sqlite:///{folder}/two.db", folder, TWO)
    with served(f"sqlite:///{folder}/two.db") as made:
        yield made


def detail(dashboard: Dashboard) -> Any:
    (study,) = dashboard.get("/api/studies")["study_summaries"]
    return dashboard.get(f"/api/studies/{study['study_id']}")


def test_a_study_with_one_objective_is_shown(one: Dashboard, one_url: str) -> None:
    found = detail(one)
    assert (found["name"], found["directions"]) == ("small", ["maximize"])
    rows = api.trials("small", db=one_url)
    assert len(found["trials"]) == len(rows)
    states = {"scored": "Complete", "failed": "Fail", "quarantined": "Fail"}
    for shown, row in zip(found["trials"], rows, strict=True):
        assert shown["state"] == states[row.state]
        if row.state == "scored":
            assert shown["values"] == list(row.values.values())
        params = {
            param["name"]: param["param_internal_value"] for param in shown["params"]
        }
        assert params == dict(row.point or {})
    (best,) = api.status("small", db=one_url).best
    assert [trial["values"] for trial in found["best_trials"]] == [[best.value]]


def test_a_study_with_several_objectives_shows_its_front(two: Dashboard) -> None:
    found = detail(two)
    assert found["directions"] == ["maximize", "maximize"]
    assert found["objective_names"] == ["x", "y"]
    values = [trial["values"] for trial in found["trials"] if trial.get("values")]
    for trial in found["best_trials"]:
        assert not any(
            all(a >= b for a, b in zip(other, trial["values"], strict=True))
            and other != trial["values"]
            for other in values
        )


@pytest.mark.parametrize("path", ["/dashboard", "/dashboard/studies/1", "/api/meta"])
def test_its_pages_and_files_are_there(one: Dashboard, path: str) -> None:
    assert one.call("GET", path)[0] == 200
    status, _, headers = one.call("GET", "/")
    assert (status, headers["Location"].endswith("/dashboard")) == (302, True)


WRITES = [
    ("POST", "/api/studies", {"study_name": "new", "directions": ["minimize"]}),
    ("POST", "/api/studies/1/rename", {"study_name": "new"}),
    ("DELETE", "/api/studies/1", {}),
    ("PUT", "/api/studies/1/note", {"version": 1, "body": "x"}),
    ("POST", "/api/studies/1/preference", {"mode": "ChooseWorst"}),
    ("POST", "/api/trials/16777216/tell", {"state": "Complete", "values": [9]}),
    ("POST", "/api/trials/16777216/user-attrs", {"user_attrs": {"a": 1}}),
    ("PUT", "/api/studies/1/16777216/note", {"version": 1, "body": "x"}),
    ("POST", "/api/artifacts/1", {}),
    ("POST", "/incompatible-rdb-schema", {}),
    ("PATCH", "/api/studies/1", {}),
]


def test_every_write_is_refused_and_changes_nothing(
    one: Dashboard, one_url: str
) -> None:
    before, file = contents(one_url), Path(one_url.removeprefix("sqlite:///"))
    bytes_before = file.read_bytes()
    for method, path, body in WRITES:
        status, text, headers = one.call(method, path, body)
        assert (status, headers["Allow"]) == (405, "GET, HEAD"), text
    assert contents(one_url) == before
    assert file.read_bytes() == bytes_before


def test_the_storage_refuses_writes_too(one_url: str) -> None:
    store = open_store(one_url)
    storage = ReadOnlyStorage(store, "small")
    writes = [n for n in dir(storage) if n.startswith(("create_", "set_", "delete_"))]
    assert len(writes) == 10
    for name in writes:
        with pytest.raises(ReadOnlyError):
            getattr(storage, name)(1, "x", "y")
    store.close()


def test_what_looking_writes_down_is_nothing(one: Dashboard, one_url: str) -> None:
    file = Path(one_url.removeprefix("sqlite:///"))
    before = file.read_bytes()
    detail(one)
    one.call("GET", "/api/studies/1/param_importances")
    one.call("GET", "/api/studies/7")
    assert file.read_bytes() == before


def test_a_page_elsewhere_that_took_the_address_is_refused(one: Dashboard) -> None:
    for host in ("evil.example", f"evil.example:{one.port}", "localhost:1"):
        assert one.call("GET", "/api/studies", host=host)[0] == 403
    assert one.call("GET", "/api/studies", host=f"127.0.0.1:{one.port}")[0] == 200


def test_mistakes_are_told_before_anything_is_served(
    one: Dashboard, one_url: str
) -> None:
    with pytest.raises(StudyNotFoundError, match="There are: 'small'"):
        make_dashboard("absent", db=one_url)
    with pytest.raises(SetupError, match="Give another --port"):
        make_dashboard("small", db=one_url, port=one.port)


def test_axes_are_those_that_are_recorded(one_url: str, tmp_path: Path) -> None:
    shutil.copy(one_url.removeprefix("sqlite:///"), tmp_path / "x.db")
    url = f"sqlite:///{tmp_path}/x.db"
    store = open_store(url)
    study = store.study("small")
    axis = {"kind": "FloatAxis", "low": -2.0, "high": 3.0, "log": False}
    text = json.dumps({**study.config, "axes": {"a": axis, "b": {"kind": "Strange"}}})
    quoted = text.replace("'", "''")
    by_hand(url, f"UPDATE em_study SET config = '{quoted}'")
    trials = ReadOnlyStorage(store, "small").get_all_trials(study.id)
    store.close()
    asked = [trial for trial in trials if trial.params]
    assert {(t.distributions["a"].low, t.distributions["a"].high) for t in asked} == {
        (-2.0, 3.0)
    }
    values = [trial.params["b"] for trial in asked]
    (b,) = {trial.distributions["b"] for trial in asked}
    assert (b.low, b.high) == (min(values), max(values))


def test_whoever_misses_a_bound_is_shown_as_such(one_url: str, tmp_path: Path) -> None:
    shutil.copy(one_url.removeprefix("sqlite:///"), tmp_path / "x.db")
    url = f"sqlite:///{tmp_path}/x.db"
    store = open_store(url)
    study = store.study("small")
    bound = {"measure": "y/acc", "at_least": 0.6}
    config = {
        **study.config,
        "study": {**study.config["study"], "constraints": [bound]},
    }
    quoted = json.dumps(config).replace("'", "''")
    by_hand(url, f"UPDATE em_study SET config = '{quoted}'")
    trials = ReadOnlyStorage(store, "small").get_all_trials(study.id)
    scores = {r.number: r.scores for r in store.history(study.id) if r.scores}
    store.close()
    missed = {t.number for t in trials if t.system_attrs.get("constraints", [0])[0] > 0}
    assert missed == {n for n, found in scores.items() if found["y/acc"] < 0.6}
    assert 0 < len(missed) < len(scores)
