"""A replica as a process: where it listens, how it ends, what it refuses."""

import http.client
import logging
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from support.postgres import running
from support.searched import by_hand
from support.services import Answer, serving, wait_for

from evomerge.errors import SetupError, StoreUnreachableError
from evomerge.service import replica
from evomerge.service.records import waited_for
from evomerge.service.replica import Listening, is_loopback
from evomerge.store.queue.accounts import open_accounts
from evomerge.store.queue.values import Scope
from evomerge.store.tables.schema import VERSION_TABLE, VERSIONS


@contextmanager
def started(folder: Path, db: str, *more: str) -> Iterator[subprocess.Popen[str]]:
    """Run `evomerge serve` as a process."""
    words = [sys.executable, "-m", "evomerge", "serve", "--listen", "127.0.0.1:0"]
    words += ["--spool", str(folder / "spool"), "--jobs", "0", *more]
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=(folder / "errors").open("w"),
        env={**os.environ, "EVOMERGE_DB": db},
        cwd=folder,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def address(process: subprocess.Popen[str]) -> str:
    """Wait until a service answers, or ends; return its URL, empty if it has ended."""
    assert process.stdout is not None
    return process.stdout.readline().rpartition(" ")[2].strip()


@contextmanager
def served(
    folder: Path, db: str, *more: str
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `evomerge serve` as a process; give its URL and the process."""
    with started(folder, db, *more) as process:
        yield address(process), process


def get(
    url: str, path: str, context: ssl.SSLContext | None = None
) -> tuple[int, bytes]:
    parts = urlsplit(url)
    connection = (
        http.client.HTTPConnection(parts.netloc, timeout=20)
        if context is None
        else http.client.HTTPSConnection(parts.netloc, timeout=20, context=context)
    )
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_others_reach_it_only_with_tls(host: str, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="--behind-proxy"):
        Listening(host)
    assert Listening(host, behind_proxy=True).host == host
    assert Listening(host, tls_cert=tmp_path, tls_key=tmp_path).host == host
    with pytest.raises(SetupError, match="together"):
        Listening(host, tls_cert=tmp_path)
    assert not is_loopback(host)
    assert Listening("127.0.0.2").host == "127.0.0.2"
    assert is_loopback("::1")


def test_sigterm_ends_it_in_order_and_no_log_tells_a_token(tmp_path: Path) -> None:
    db = f"sqlite:///{tmp_path}/jobs.db"
    accounts = open_accounts(db)
    accounts.add_user("ann")
    secret = accounts.add_token("ann", "t", tuple(Scope))
    accounts.close()
    with served(tmp_path, db) as (url, process):
        assert get(url, "/healthz")[0] == 200
        assert get(url, f"/v1/studies/{secret}")[0] == 401
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert secret not in (tmp_path / "errors").read_text()


def test_with_a_certificate_it_answers_by_tls_alone(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]
    made += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        done = [*made, "-keyout", str(key), "-out", str(cert)]
        subprocess.run(done, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not here")
    tls = ("--tls-cert", str(cert), "--tls-key", str(key))
    with served(tmp_path, f"sqlite:///{tmp_path}/jobs.db", *tls) as (url, _):
        assert url.startswith("https://")
        trusted = ssl.create_default_context(cafile=str(cert))
        assert get(url, "/healthz", trusted)[0] == 200
        with pytest.raises((OSError, http.client.HTTPException)):
            get(url.replace("https", "http"), "/healthz")


def test_a_database_of_another_version_is_refused_with_what_to_do(
    tmp_path: Path,
) -> None:
    db = f"sqlite:///{tmp_path}/jobs.db"
    open_accounts(db).close()
    for version, said in (("0001", "evomerge db upgrade"), ("0099", "newer version")):
        by_hand(db, f"UPDATE {VERSION_TABLE} SET version_num = '{version}'")
        with served(tmp_path, db) as (_, process):
            assert process.wait(30) == 2
        assert said in (tmp_path / "errors").read_text()


def test_a_replica_that_meets_another_schema_tells_that_it_claims_nothing(
    tmp_path: Path,
) -> None:
    db = f"sqlite:///{tmp_path}/jobs.db"
    set_to = f"UPDATE {VERSION_TABLE} SET version_num = "
    with serving(db, tmp_path / "spool") as service:

        def ready() -> Answer:
            return service.call("GET", "/readyz", who=None)

        by_hand(db, f"{set_to}'0099'")
        try:
            wait_for(lambda: "another schema" in str(ready().data["status"]), 20)
            assert ready().status == 503
        finally:
            by_hand(db, f"{set_to}'{VERSIONS[-1]}'")
        wait_for(lambda: ready().status == 200, 20)


@pytest.mark.timeout(200)
def test_a_replica_that_starts_without_its_database_waits_for_it(
    tmp_path: Path,
) -> None:
    errors = tmp_path / "errors"
    with running() as server:
        db = server.database()
        server.stop()
        with started(tmp_path, db) as process:
            wait_for(lambda: "Waiting for it" in errors.read_text())
            assert process.poll() is None
            server.start()
            url = address(process)
            wait_for(lambda: get(url, "/readyz")[0] == 200)


def test_a_database_that_stays_away_ends_the_wait_after_ten_minutes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pauses: list[float] = []
    with pytest.raises(StoreUnreachableError):
        waited_for(
            "postgresql://127.0.0.1:9/nobody", lambda: sum(pauses), pauses.append
        )
    assert pauses == [10.0] * 60
    assert len([m for m in caplog.messages if "Waiting for it" in m]) == 60


def test_an_address_that_is_taken_is_told(tmp_path: Path) -> None:
    db = f"sqlite:///{tmp_path}/jobs.db"
    with served(tmp_path, db) as (url, _):
        port = url.rpartition(":")[2]
        other = [sys.executable, "-m", "evomerge", "serve", "--db", db, "--jobs", "0"]
        done = subprocess.run(
            [*other, "--listen", f"127.0.0.1:{port}"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
    assert done.returncode == 2
    assert "--listen" in done.stderr


@pytest.mark.timeout(200)
def test_a_database_that_is_away_is_told_and_waited_for(tmp_path: Path) -> None:
    with running() as server, serving(server.database(), tmp_path / "spool") as service:
        service.submit("mine", {"name": "mine"})
        server.stop()
        away = service.call("GET", "/v1/studies/mine")
        assert (away.status, away.data["code"]) == (503, 75)
        assert int(away.headers["retry-after"]) > 0
        assert "postgresql" not in away.data["detail"]
        assert service.call("GET", "/healthz", who=None).status == 200
        assert service.call("GET", "/readyz", who=None).status == 503
        server.start()
        wait_for(lambda: service.call("GET", "/v1/studies/mine").status == 200)
        began = time.monotonic()
        wait_for(lambda: service.call("GET", "/readyz", who=None).status == 200)
        assert time.monotonic() - began < 15


def test_a_clock_that_is_off_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = time.time
    logger = logging.getLogger("evomerge.service.replica")
    logger.addHandler(caplog.handler)
    monkeypatch.setattr(replica, "time", SimpleNamespace(time=lambda: real() - 60))
    try:
        with serving(f"sqlite:///{tmp_path}/jobs.db", tmp_path / "spool"):
            pass
    finally:
        logger.removeHandler(caplog.handler)
    assert "clock is 60 s behind the database's" in caplog.text
