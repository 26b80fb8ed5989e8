"""What the search asks after every event costs no look at every worker."""

from evomerge.core.work import Roster, WorkerReady
from evomerge.search.dispatcher import COUNT_EVERY_S, Dispatcher


class CountedPool:
    """Some workers, and how often they were listed."""

    def __init__(self) -> None:
        self.names = ["w0", "w1"]
        self.n_listed = 0
        self.events = [WorkerReady(name, (), {}) for name in self.names]

    def start(self) -> None:
        """Nothing to do."""

    def workers(self) -> list[str]:
        self.n_listed += 1
        return self.names

    def roster(self) -> Roster:
        return Roster(2, len(self.names))

    def poll(self, timeout_s: float) -> list[WorkerReady]:
        events, self.events = self.events, []
        return events


def test_workers_are_counted_when_they_come_and_else_once_a_second() -> None:
    now = [0.0]
    pool = CountedPool()
    crew = Dispatcher(pool, lambda: now[0])  # type: ignore[arg-type]
    crew.start()
    assert (crew.count.n_up, crew.count.roster.up) == (0, 2)
    for event in crew.events(0.0):
        crew.welcome(event.worker)  # type: ignore[union-attr]
    assert crew.count.n_up == 2
    assert not crew.is_single
    listed = pool.n_listed
    for _ in range(100):
        assert crew.count.n_up == 2
    assert pool.n_listed == listed
    pool.names = ["w0"]  # one was taken away, which no event tells
    now[0] += COUNT_EVERY_S
    assert crew.is_single
