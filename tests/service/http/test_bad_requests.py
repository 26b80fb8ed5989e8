"""What strangers send: each gets a clear answer, and nothing of it is done."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.services import Service, files_of, serving

from evomerge.client.verbs import MAX_BODY
from evomerge.service.http.bounds import SMALL_BODY
from evomerge.store.queue.accounts import open_accounts
from evomerge.store.queue.bundle import MAX_BYTES
from evomerge.store.queue.values import Scope


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with serving(f"sqlite:///{folder}/jobs.db", folder / "spool") as found:
        found.submit("mine", {"name": "mine"})
        yield found


def coded(**files: bytes | str) -> dict[str, str]:
    raw = {n: c.encode() if isinstance(c, str) else c for n, c in files.items()}
    return {name: base64.b64encode(content).decode() for name, content in raw.items()}


def put(service: Service, files: Any, name: str = "new", **more: Any) -> Any:
    answer = service.call("PUT", f"/v1/studies/{name}", {"files": files, **more})
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.data
    assert said["status"] == answer.status
    assert said["code"] == 2
    assert service.call("GET", f"/v1/studies/{name}").status in (404, 422)
    return said


def wheres(said: Any) -> str:
    return " ".join(problem["where"] for problem in said["problems"])


@pytest.mark.parametrize(
    "name", ["../up", "/etc/passwd", "a/../../b", "a\\b", "", "a//b", "a\nb", "\ud800"]
)
def test_a_file_that_would_lie_elsewhere_is_refused(
    service: Service, name: str
) -> None:
    said = put(service, {**files_of({"name": "x"}), name: ""})
    assert said["status"] == 422
    assert said["problems"]


def test_every_mistake_is_told_at_once(service: Service) -> None:
    files = {**files_of({"name": "x"}), "../up": "", "/etc": ""}
    said = put(service, files)
    assert len(said["problems"]) == 2


@pytest.mark.parametrize(
    ("files", "where"),
    [
        ({}, "study.yaml"),
        (coded(other="x"), "study.yaml"),
        ({"study.yaml": "no base 64!"}, "files"),
        ({"study.yaml": "é"}, "files"),
        ({"study.yaml": 3}, "body.files.study.yaml"),
        ([], "body.files"),
        (coded(**{"study.yaml": "name: [a"}), "study.yaml"),
        (coded(**{"study.yaml": b"\xff\xfe"}), "study.yaml"),
        (coded(**{"study.yaml": "- a"}), "study.yaml"),
        (coded(**{"study.yaml": "seed: 1"}), "name"),
        (coded(**{"study.yaml": "name: ../x"}), "study"),
        (coded(**{"study.yaml": "a: &a [1]\nb: " + "[" * 900}), "study.yaml"),
    ],
)
def test_what_is_no_bundle_is_refused(service: Service, files: Any, where: str) -> None:
    said = put(service, files)
    assert said["status"] == 422
    assert where in wheres(said)


def test_files_too_large_or_too_many_are_refused(service: Service) -> None:
    large = put(service, coded(**{"study.yaml": b"#" * (MAX_BYTES + 1)}))
    assert (large["status"], wheres(large)) == (422, "bundle")
    many = {**files_of({"name": "x"}), **{f"f{i}": "" for i in range(200)}}
    assert put(service, many)["status"] == 422


def test_a_body_too_large_is_refused_before_it_is_read(service: Service) -> None:
    connection = service.connect()
    try:
        connection.putrequest("PUT", "/v1/studies/new")
        connection.putheader("Content-Length", str(MAX_BODY + 1))
        connection.putheader("Authorization", f"Bearer {service.tokens['ann']}")
        connection.endheaders()
        answer = connection.getresponse()  # nothing was sent
        assert answer.status == 413
        assert json.loads(answer.read())["status"] == 413
    finally:
        connection.close()


def test_a_body_that_grows_too_large_is_refused(service: Service) -> None:
    connection = service.connect()
    try:
        connection.putrequest("POST", "/v1/studies/mine/resume")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Authorization", f"Bearer {service.tokens['ann']}")
        connection.endheaders()
        chunk = b" " * 8192
        for _ in range(SMALL_BODY // len(chunk) + 2):
            connection.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        connection.send(b"0\r\n\r\n")
        assert connection.getresponse().status == 413
    finally:
        connection.close()


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'"text"',
        b'{"budget": {"trials": NaN}}',
        b'{"budget": {"trials": 1e999}}',
        b'{"budget": {"minutes": Infinity}}',
        b'{"budget": {"trials": "3"}}',
        b'{"budget": {"trials": -3}}',
        b'{"budget": {"odd": 3}}',
        b'{"priority": 11}',
        b'{"priority": true}',
        b'{"priority": 1.5}',
        b'{"odd": 1}',
    ],
)
def test_a_body_that_is_none_is_refused(service: Service, body: bytes) -> None:
    sent = {"Content-Type": "application/json"}
    path = "/v1/studies/mine/resume"
    found = service.call("POST", path, body, headers=sent)
    assert found.status in (400, 422)
    assert found.data["status"] == found.status
    assert service.call("GET", "/v1/studies/mine").data["budget"] == {}


@pytest.mark.parametrize(
    ("place", "where"),
    [({"workers": 0}, "place.workers"), ({"workers": 10**9}, "place.workers")],
)
def test_a_place_that_is_none_is_refused(
    service: Service, place: Any, where: str
) -> None:
    said = put(service, files_of({"name": "x"}), place=place)
    assert where in wheres(said)


@pytest.mark.parametrize(
    "name", ["..", "a%2Fb", "%00", "a%20b", "-a", "a" * 65, "%F0%9F%98%80", "%ED%A0%80"]
)
def test_a_name_that_is_none_is_refused(service: Service, name: str) -> None:
    for method in ("GET", "DELETE"):
        found = service.call(method, f"/v1/studies/{name}")
        assert found.status in (404, 422)
        assert found.data["code"] == 2


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=100000",
        "state=odd",
        "filter=novalue",
        "user=a%00",
        "after=nobody/none",
        "after=%00",
        "limit=" + "9" * 400,
    ],
)
def test_a_question_that_is_none_is_refused(service: Service, query: str) -> None:
    found = service.call("GET", f"/v1/studies?{query}", who="root")
    assert found.status in (404, 422)


def test_what_is_not_there_is_told(service: Service) -> None:
    for path in ("/v1/studies/none", "/v1/odd", "/v1/studies/mine/exports/7", "/v2"):
        assert service.call("GET", path).status == 404
    assert service.call("PATCH", "/v1/studies/mine").status == 405
    for what in ("status", "front", "trials", "attempts"):
        found = service.call("GET", f"/v1/studies/mine/{what}")
        assert (found.status, found.data["error"]) == (404, "StudyNotFoundError")


def test_what_cannot_be_done_in_a_state_is_told(service: Service) -> None:
    service.submit("over", {"name": "over"})
    assert service.call("DELETE", "/v1/studies/over").status == 409
    service.call("POST", "/v1/studies/over/cancel")
    paused = service.call("POST", "/v1/studies/over/pause")
    assert (paused.status, paused.data["error"]) == (409, "JobStateError")
    assert service.call("DELETE", "/v1/studies/over").status == 204


@pytest.mark.parametrize(
    "shown",
    [
        None,
        "",
        "Bearer",
        "Bearer emk_nobody",
        "Bearer " + "x" * 5000,
        "Basic YTpi",
        "bearer \xff\xfe",
        "Token emk_a",
    ],
)
def test_no_token_opens_nothing(service: Service, shown: str | None) -> None:
    headers = {} if shown is None else {"Authorization": shown}
    for method, path in (("GET", "/v1/me"), ("POST", "/v1/studies/mine/cancel")):
        found = service.call(method, path, who=None, headers=headers)
        assert found.status == 401
        assert found.headers["www-authenticate"] == "Bearer"
    assert service.state("mine") == "queued"


def test_a_token_of_another_cluster_is_nobodys(
    service: Service, tmp_path: Path
) -> None:
    accounts = open_accounts(f"sqlite:///{tmp_path}/other.db")
    accounts.add_user("ann")
    other = accounts.add_token("ann", "t", tuple(Scope))
    accounts.close()
    assert service.call("GET", "/v1/me", who=other).status == 401


def test_what_is_anothers_is_not_there(service: Service) -> None:
    for method, path in (
        ("GET", "/v1/studies/mine"),
        ("GET", "/v1/studies/mine?user=ann"),
        ("GET", "/v1/studies/mine/logs?user=ann"),
        ("GET", "/v1/studies/mine/events?user=ann&follow=true"),
        ("POST", "/v1/studies/mine/cancel?user=ann"),
        ("POST", "/v1/studies/mine/exports?user=ann"),
        ("DELETE", "/v1/studies/mine?user=ann"),
    ):
        assert service.call(method, path, who="bob").status == 404
    mine = service.call("GET", "/v1/studies/mine", who="bob").data
    none = service.call("GET", "/v1/studies/none", who="bob").data
    assert mine["detail"].replace("mine", "none") == none["detail"]
    assert service.call("GET", "/v1/studies/mine?user=ann", who="root").status == 200
    taken = service.submit("other", {"name": "mine"}, who="bob")
    assert (taken.status, taken.data["error"]) == (409, "JobExistsError")


def test_a_token_allows_what_its_scopes_say_and_no_more(service: Service) -> None:
    made = service.call("POST", "/v1/tokens", {"name": "r", "scopes": ["read"]})
    secret = made.data["secret"]
    assert service.call("GET", "/v1/studies/mine", who=secret).status == 200
    for method, path, body in (
        ("PUT", "/v1/studies/new", {"files": files_of({"name": "new"})}),
        ("POST", "/v1/studies/mine/cancel", None),
        ("POST", "/v1/studies/mine/exports", None),
        ("DELETE", "/v1/studies/mine", None),
        ("POST", "/v1/tokens", {"name": "more", "scopes": ["read"]}),
        ("DELETE", "/v1/tokens/r", None),
        ("POST", "/v1/drain", None),
        ("GET", "/v1/users", None),
    ):
        assert service.call(method, path, body, who=secret).status == 403, path
    for asked in (["operate"], ["read", "operate"], []):
        more = {"name": "more", "scopes": asked}
        assert service.call("POST", "/v1/tokens", more).status in (403, 422)
    for method, path in (("GET", "/v1/users"), ("POST", "/v1/drain")):
        assert service.call(method, path).status == 403
    assert service.call("POST", "/v1/users", {"name": "eve"}).status == 403
    assert service.call("DELETE", "/v1/tokens/r").status == 204
    assert service.call("GET", "/v1/me", who=secret).status == 401
    assert service.call("DELETE", "/v1/tokens/none").status == 404


def test_an_admin_adds_users(service: Service) -> None:
    new = {"name": "carl", "max_running": 2, "max_gpu_hours": 8.0}
    added = service.call("POST", "/v1/users", new, who="root")
    assert (added.status, added.data["max_gpu_hours"]) == (201, 8.0)
    assert service.call("POST", "/v1/users", new, who="root").status == 409
    assert len(service.call("GET", "/v1/users", who="root").data["users"]) == 4
    odd = service.call("POST", "/v1/users", {"name": "x", "weight": 0}, who="root")
    assert odd.status == 422


def test_no_answer_tells_a_token(service: Service) -> None:
    secret = service.tokens["ann"]
    for found in (
        service.call("GET", "/v1/tokens"),
        service.call("GET", f"/v1/studies/{secret}"),
        service.call("GET", f"/v1/studies?after={secret}"),
        service.call("PUT", "/v1/studies/new", {"files": {"a": secret}, secret: 1}),
    ):
        assert secret.encode() not in found.text
