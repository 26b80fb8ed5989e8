"""Events and logs as they come: nothing is skipped, and an end is said."""

import base64
import http.client
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.services import Service, serving, wait_for

from evomerge.client import connect
from evomerge.store.queue.job_queue import open_queue


@pytest.fixture
def service(any_url: str, tmp_path: Path) -> Iterator[Service]:
    with serving(any_url, tmp_path / "spool") as found:
        found.submit("mine", {"name": "mine"})
        yield found


class Follower(threading.Thread):
    """Reads a stream to its end, in a thread of its own."""

    def __init__(self, service: Service, path: str, who: str = "ann") -> None:
        super().__init__(daemon=True)
        self.connection = service.connect()
        headers = {"Authorization": f"Bearer {service.tokens.get(who, who)}"}
        self.connection.request("GET", path, headers=headers)
        self.answer = self.connection.getresponse()
        self.seen: list[tuple[str, Any]] = []
        self.start()

    @property
    def kinds(self) -> list[str]:
        """The events that came, by kind."""
        return [kind for kind, _ in self.seen]

    def run(self) -> None:
        """Read."""
        kind = ""
        try:
            for line in self.answer:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    self.seen.append((kind, json.loads(value)))
        except (OSError, http.client.HTTPException):
            pass


EVENTS = "/v1/studies/mine/events?follow=true"


def test_events_are_told_as_they_happen_up_to_an_end_that_is_said(
    service: Service,
) -> None:
    follower = Follower(service, EVENTS)
    assert follower.answer.headers["content-type"].startswith("text/event-stream")
    wait_for(lambda: follower.kinds == ["submitted"])
    service.call("POST", "/v1/studies/mine/pause")
    follower.join(20)
    assert follower.kinds == ["submitted", "pause_wanted", "end"]
    assert [data["number"] for _, data in follower.seen[:-1]] == [1, 2]
    late = Follower(service, f"{EVENTS}&after=1")
    late.join(20)
    assert late.kinds == ["pause_wanted", "end"]


def test_a_client_follows_to_the_end(service: Service) -> None:
    cluster = connect(service.url, token=service.tokens["ann"])
    threading.Timer(
        1.0, lambda: service.call("POST", "/v1/studies/mine/cancel")
    ).start()
    kinds = [event.kind for event in cluster.follow_events("mine")]
    assert kinds == ["submitted", "cancel_wanted"]


def test_a_drained_service_cuts_streams_without_an_end(
    any_url: str, tmp_path: Path
) -> None:
    with serving(any_url, tmp_path / "spool") as service:
        service.submit("mine", {"name": "mine"})
        follower = Follower(service, EVENTS)
        wait_for(lambda: follower.kinds)
        began = time.monotonic()
        service.call("POST", "/v1/drain", who="root")
        follower.join(10)
        assert time.monotonic() - began < 8
        assert follower.kinds == ["submitted"]


def test_a_log_is_told_by_the_byte_and_as_it_grows(service: Service) -> None:
    log = service.spool / "ann" / "mine" / "coordinator.log"
    path = "/v1/studies/mine/logs"
    assert service.call("GET", path).text == b""
    log.parent.mkdir(parents=True)
    log.write_bytes("eins\nzwei é\n".encode())
    first = service.call("GET", f"{path}?after=5")
    assert first.text == "zwei é\n".encode()
    assert first.headers["x-next"] == str(log.stat().st_size)
    follower = Follower(service, f"{path}?follow=true")
    wait_for(lambda: follower.seen)
    with log.open("ab") as file:
        file.write(b"drei\n")
    wait_for(lambda: len(follower.seen) == 2)
    service.call("POST", "/v1/studies/mine/cancel")
    follower.join(20)
    assert follower.kinds == ["log", "log", "end"]
    parts = [base64.b64decode(data["text"]) for _, data in follower.seen[:-1]]
    assert b"".join(parts) == log.read_bytes()


def test_a_revoked_token_follows_no_more(service: Service) -> None:
    made = service.call("POST", "/v1/tokens", {"name": "r", "scopes": ["read"]})
    follower = Follower(service, EVENTS, made.data["secret"])
    wait_for(lambda: follower.kinds)
    service.call("DELETE", "/v1/tokens/r")
    service.call("POST", "/v1/studies/mine/pause")
    follower.join(20)
    assert follower.kinds == ["submitted"]


@pytest.mark.long
def test_two_hundred_follow_at_once(service: Service) -> None:
    followers = [Follower(service, EVENTS) for _ in range(200)]
    wait_for(lambda: all(f.kinds for f in followers), 60)
    queue = open_queue(service.db)
    for number in range(5):
        queue.record("ann", "mine", "noted", {"number": number})
    queue.close()
    assert service.call("GET", "/v1/me").status == 200
    service.call("POST", "/v1/studies/mine/cancel")
    for follower in followers:
        follower.join(40)
    wanted = ["submitted", *["noted"] * 5, "cancel_wanted", "end"]
    assert all(follower.kinds == wanted for follower in followers)
