"""The cluster seen from afar: fresh, or not since some time."""

import threading

import pytest

from evomerge.cluster import watch
from evomerge.cluster.watch import STALE_S, Seen, Watch


class Head:
    """Answers, until it is away."""

    def __init__(self) -> None:
        self.now = 100.0
        self.is_there = True
        self.n_asked = 0
        self.asked = threading.Event()

    def look(self) -> Seen:
        self.n_asked += 1
        self.asked.set()
        if not self.is_there:
            raise ConnectionError("no head")
        return Seen(places={"actor": f"node {self.n_asked}"})

    def wait(self) -> None:
        """Let the thread look once more, from beginning to end."""
        for _ in range(2):
            self.asked.clear()
            assert self.asked.wait(10)


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Head:
    monkeypatch.setattr(watch, "PERIOD_S", 0.01)
    return Head()


def test_what_was_seen_stays_when_the_head_is_away_and_its_clock_stands_still(
    head: Head,
) -> None:
    found = Watch(head.look, lambda: head.now)
    found.start()
    try:
        began = found.now
        head.is_there = False
        head.wait()
        before = found.seen
        head.now += 1000
        assert found.is_away
        assert found.seen is before
        assert found.now == began
        head.is_there = True
        head.wait()
        assert not found.is_away
        assert found.seen is not before
        assert found.now == began
        head.now += STALE_S / 2
        assert found.now == began + STALE_S / 2
    finally:
        found.stop()
    n_asked = head.n_asked
    head.asked.clear()
    assert not head.asked.wait(0.1)
    assert head.n_asked == n_asked


def test_a_head_that_never_answered_is_an_error_at_once(head: Head) -> None:
    head.is_there = False
    with pytest.raises(ConnectionError):
        Watch(head.look).start()
