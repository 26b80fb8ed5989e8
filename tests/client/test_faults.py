"""Replicas that are gone, cut off, busy or no replicas: what a client makes of it."""

import base64
import json
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

import pytest
from support.replicas import Handler, in_turn, replica

from evomerge.client.remote import RemoteService
from evomerge.client.settings import addresses
from evomerge.client.transport import Transport
from evomerge.client.verbs import NewToken
from evomerge.errors import (
    ClusterUnreachableError,
    JobExistsError,
    JobNotFoundError,
    JobStateError,
    RemoteError,
    ReplayError,
    SpecError,
    TokenError,
)
from evomerge.exit_codes import exit_code_of

TOKEN = "emk_" + "a" * 43
JOB = {
    "user": "ann",
    "name": "x",
    "study": "x",
    "bundle_digest": "d",
    "state": "running",
    "wanted": "run",
    "priority": 0,
    "budget": {},
    "place": {},
    "claim_by": None,
    "due": None,
    "starts": 1,
    "fruitless": 0,
    "last_progress": 0,
    "why": None,
    "created": "2026-11-30T00:00:00Z",
    "changed": "2026-11-30T00:00:00Z",
    "address": "ann/x",
    "news": "of a later version",
}


def cluster(*urls: str, patience_s: float = 0.4, **more) -> RemoteService:
    found = addresses(",".join(urls))
    return RemoteService(Transport(found, TOKEN, patience_s=patience_s, **more))


def says(data: object, status: int = 200, **headers: str):
    return lambda handler: handler.send(json.dumps(data).encode(), status, **headers)


def problem(status: int, **more: object):
    return says({"title": "no", "status": status, **more}, status)


def hang_up(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def cut(handler: Handler) -> None:
    handler.send(b'{"user": "ann', length=1000)


def event(number: int, kind: str = "news") -> bytes:
    data = {"number": number, "at": "now", "kind": kind, "data": {}}
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode()


END = b"event: end\ndata: {}\n\n"


def unused_url() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_the_token_and_nothing_secret_else_goes_in_a_header() -> None:
    with replica(says(JOB)) as one:
        assert cluster(one.url).job("x").address == "ann/x"
    (asked,) = one.asked
    assert asked.headers["authorization"] == f"Bearer {TOKEN}"
    assert TOKEN not in asked.path


def test_a_job_of_somebody_else_is_asked_for_by_user() -> None:
    with replica(says(JOB)) as one:
        cluster(one.url).cancel("ann/x")
    assert one.asked[0].path == "/v1/studies/x/cancel?user=ann"


@pytest.mark.parametrize("name", ["", "/x", "x/", "a/b/c", "..", "a/.."])
def test_a_name_that_no_job_has_is_not_asked_for(name: str) -> None:
    with replica(says(JOB)) as one, pytest.raises(SpecError, match="USER/NAME"):
        cluster(one.url).job(name)
    assert one.asked == []


def test_a_replica_that_is_gone_is_passed_over() -> None:
    with replica(says(JOB)) as two:
        found = cluster(unused_url(), two.url)
        assert found.job("x").name == "x"
        assert found.job("x").name == "x"
    assert len(two.asked) == 2


@pytest.mark.parametrize("fault", [hang_up, cut, problem(502), problem(503)])
def test_what_can_be_repeated_is_asked_again(fault) -> None:
    with replica(in_turn([fault, fault, says(JOB)])) as one:
        assert cluster(one.url, patience_s=5).pause("x").name == "x"
    assert len(one.asked) == 3


def test_a_token_is_not_made_twice_when_the_answer_is_lost() -> None:
    lost = pytest.raises(ClusterUnreachableError, match="may have been done")
    with replica(in_turn([hang_up, says({"secret": TOKEN})])) as one, lost:
        cluster(one.url).add_token(NewToken("laptop"))
    assert len(one.asked) == 1


def test_a_busy_replica_says_when_to_come_again() -> None:
    busy = says({"detail": "busy"}, 429, Retry_After="1")
    with replica(in_turn([busy, says(JOB)])) as one:
        began = time.monotonic()
        assert cluster(one.url, patience_s=5).job("x").name == "x"
    assert 1 <= time.monotonic() - began < 3


def test_nobody_there_is_told_with_every_url_and_reason() -> None:
    told: list[str] = []
    with replica(problem(503, detail="The database is away.")) as two:
        gone = unused_url()
        with pytest.raises(ClusterUnreachableError) as raised:
            cluster(gone, two.url, notice=told.append).job("x")
    assert f"{gone}: Connection refused" in str(raised.value)
    assert f"{two.url}: The database is away." in str(raised.value)
    assert exit_code_of(raised.value) == 75
    assert told[0].startswith("waiting for the cluster: ")


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (problem(404, error="JobNotFoundError"), JobNotFoundError, 2),
        (problem(409, error="JobStateError"), JobStateError, 2),
        (problem(401, error="TokenError"), TokenError, 2),
        (problem(422, error="ReplayError", code=3), ReplayError, 3),
        (problem(418, error="NewError", code=3), RemoteError, 3),
        (problem(418, error="os", code=75), RemoteError, 75),
        (problem(418, error="EvomergeError.mro", code=True), RemoteError, 2),
        (says([1], 500), RemoteError, 2),
        (lambda h: h.send(b"<html>", 404), RemoteError, 2),
        (lambda h: h.send(b"<html>"), RemoteError, 2),
        (says({"user": 3}), RemoteError, 2),
        (says({**JOB, "state": "dreaming"}), RemoteError, 2),
        (lambda h: h.send(b"", 302, Location="http://elsewhere/"), RemoteError, 2),
    ],
)
def test_an_error_is_what_it_would_be_beside_the_database(answer, kind, code) -> None:
    with replica(answer) as one, pytest.raises(kind) as raised:
        cluster(one.url).job("x")
    assert type(raised.value) is kind
    assert exit_code_of(raised.value) == code


def test_a_refused_submission_carries_every_mistake() -> None:
    said = [{"where": "a", "message": "one"}, {"where": "b", "message": "two"}]
    files = {"study.yaml": b"name: x\n"}
    exists = problem(409, error="JobExistsError", problems=said)
    with replica(exists) as one, pytest.raises(JobExistsError) as taken:
        cluster(one.url).submit(files)
    assert [str(p) for p in taken.value.problems] == ["a: one", "b: two"]
    refused = problem(422, error="SpecError", problems=said)
    with replica(refused) as one, pytest.raises(SpecError) as wrong:
        cluster(one.url).submit(files)
    assert str(wrong.value) == "a: one\nb: two"


def test_events_go_on_at_the_next_replica_none_twice() -> None:
    first = in_turn([lambda h: h.stream(b": \n\n", event(1), event(2), event(3)[:20])])
    second = in_turn([lambda h: h.stream(event(2), event(3), event(4), END)])
    with replica(first) as one, replica(second) as two:
        found = list(cluster(one.url, two.url).follow_events("x"))
    assert [each.number for each in found] == [1, 2, 3, 4]
    assert "after=0" in one.asked[0].path
    assert "after=2" in two.asked[0].path


def test_events_without_an_end_are_asked_for_until_patience_is_over() -> None:
    lost = pytest.raises(ClusterUnreachableError, match="cuts every connection")
    with replica(lambda h: h.stream(b": \n\n")) as one, lost:
        list(cluster(one.url).follow_events("x"))
    assert len(one.asked) > 1


def test_a_job_that_is_deleted_meanwhile_ends_what_follows_it() -> None:
    answers = [lambda h: h.stream(event(1)), problem(404, error="JobNotFoundError")]
    with replica(in_turn(answers)) as one, pytest.raises(JobNotFoundError):
        list(cluster(one.url).follow_events("x"))


def test_events_that_are_none_are_refused() -> None:
    strange = pytest.raises(RemoteError, match="not understood")
    with replica(lambda h: h.stream(b"data: nonsense\n\n")) as one, strange:
        list(cluster(one.url).follow_events("x"))


def test_a_silent_replica_is_left() -> None:
    done = threading.Event()

    def silent(handler: Handler) -> None:
        handler.stream(event(1))
        done.wait(5)

    with replica(silent) as one, replica(lambda h: h.stream(event(2), END)) as two:
        found = list(cluster(one.url, two.url, timeout_s=0.3).follow_events("x"))
        done.set()
    assert [each.number for each in found] == [1, 2]


def test_a_log_is_followed_byte_by_byte() -> None:
    def part(text: bytes, following: int) -> bytes:
        data = {"text": base64.b64encode(text).decode(), "next": following}
        return f"id: {following}\ndata: {json.dumps(data)}\n\n".encode()

    answers = [
        lambda h: h.stream(part(b"a\n", 2)),
        lambda h: h.stream(part(b"b", 3), END),
    ]
    with replica(in_turn(answers)) as one:
        found = list(cluster(one.url).follow_log("x"))
    assert [(each.text, each.next) for each in found] == [(b"a\n", 2), (b"b", 3)]
    assert "after=2" in one.asked[1].path


def test_another_version_is_told_once() -> None:
    told: list[str] = []
    with replica(says(JOB, X_Evomerge_Version="9.1.0")) as one:
        found = cluster(one.url, notice=told.append)
        found.job("x")
        found.job("x")
    assert len(told) == 1
    assert "the cluster has evomerge 9.1.0" in told[0]


def make_certificate(folder: Path) -> tuple[Path, Path]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


def test_a_certificate_is_checked_and_what_is_wrong_with_it_is_told(
    tmp_path: Path,
) -> None:
    cert, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    from http.server import ThreadingHTTPServer

    handler = type("H", (Handler,), {"replica": None})
    found = type("R", (), {"asked": [], "answer": staticmethod(says(JOB))})()
    handler.replica = found
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        port = server.server_address[1]
        safe = cluster(f"https://localhost:{port}", ca_file=str(cert))
        assert safe.job("x").name == "x"
        with pytest.raises(RemoteError, match="its certificate is not trusted") as not_:
            cluster(f"https://localhost:{port}").job("x")
        assert "EVOMERGE_CA_FILE" in str(not_.value)
        with pytest.raises(RemoteError, match="certificate"):
            cluster(f"https://127.0.0.1:{port}", ca_file=str(cert)).job("x")
        with pytest.raises(RemoteError, match="PEM"):
            cluster(f"https://localhost:{port}", ca_file=str(key)).job("x")
        server.shutdown()


def test_plain_http_beyond_this_machine_is_warned_of() -> None:
    told: list[str] = []
    with pytest.raises(ClusterUnreachableError):
        cluster("http://no-such-host.invalid:1", notice=told.append).job("x")
    assert any("is not encrypted" in said for said in told)


def test_tls_where_none_is_spoken_is_told() -> None:
    with replica(says(JOB)) as one, pytest.raises(RemoteError, match="TLS fails"):
        cluster(one.url.replace("http:", "https:")).job("x")
