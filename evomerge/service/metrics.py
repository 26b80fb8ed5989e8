"""What Prometheus reads: the numbers of ``store.meter``, on a port of their own.

They come from the database at the time of the scrape, so any replica tells the same.
Labels are states, causes and users, of which a bounded number have their own; nothing
is told by study, however many there are.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector

from evomerge.errors import SetupError, StoreError
from evomerge.store.meter import NOBODY, Meter, Reading, Tally, open_meter

FRESH_S = 5.0
"""Who asks sooner again is told the same."""
MOST_USERS = 100
OTHERS = "_others"
"""Users beyond ``MOST_USERS``, together; no user can be called so."""

_logger = logging.getLogger(__name__)


class ServiceCollector:
    """Gives Prometheus what a meter reads, for any number of threads.

    Args:
        open_meter: Opens the meter; called again after the database was away.
        clock: Seconds of a clock that ticks.
    """

    def __init__(
        self,
        open_meter: Callable[[], Meter],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_meter = open_meter
        self._clock = clock
        self._lock = threading.Lock()
        self._meter: Meter | None = None
        self._reading: Reading | None = None
        self._took_s = 0.0
        self._until = 0.0

    def collect(self) -> Iterator[Metric]:
        """Yield every metric; without the database, only that it is away."""
        with self._lock:
            if self._clock() >= self._until:
                self._read()
            reading, took_s = self._reading, self._took_s
        yield _gauge("database_up", "1 if the database answers", float(bool(reading)))
        yield _gauge("reading_seconds", "What the last reading took", took_s)
        if reading is not None:
            yield from _now(reading)
            yield from _done(_bounded(reading.users))

    def describe(self) -> list[Metric]:
        """Return nothing: what there is need not be read to be registered."""
        return []

    def close(self) -> None:
        """Close the database; idempotent."""
        with self._lock:
            if self._meter is not None:
                self._meter.close()
                self._meter = None

    def _read(self) -> None:
        began = self._clock()
        try:
            if self._meter is None:
                self._meter = self._open_meter()
            self._reading = self._meter.read()
        except StoreError as error:
            if self._reading is not None:
                _logger.warning("%s Metrics have no numbers until it is back.", error)
            self._reading = None
        now = self._clock()
        self._took_s = now - began
        self._until = now + FRESH_S


def _now(reading: Reading) -> Iterator[Metric]:
    """Yield how things stand."""
    yield _by("jobs", "Jobs by state", "state", reading.jobs)
    yield _gauge(
        "queue_oldest_seconds",
        "How long the job has been queued that has been so for longest",
        reading.oldest_queued_s,
    )
    yield _by(
        "trials_open",
        "Trials that are not final, by state",
        "state",
        {state: reading.open.get(state, 0) for state in ("pending", "running")},
    )
    yield _by(
        "workers",
        "Workers of running studies: ready, missing, and nodes set aside",
        "state",
        {s: reading.workers.get(s, 0) for s in ("ready", "missing", "aside")},
    )
    yield _gauge("workers_at_work", "Workers that have something to do", reading.busy)
    there = max(reading.busy, reading.workers.get("ready", 0))
    yield _gauge(
        "utilisation_ratio",
        "Workers at work as a share of those that are ready; 0 without workers",
        reading.busy / there if there else 0.0,
    )


def _done(users: Mapping[str, Tally]) -> Iterator[Metric]:
    """Yield what was done, in numbers that only grow."""
    trials = _counter("trials", "Trials that are final", "user", "state")
    reused = _counter("trials_reused", "Final trials that needed no work", "user")
    items = _counter("items", "Items scored", "user")
    tokens = _counter("tokens", "Tokens generated", "user")
    worker_s = _counter("worker_seconds", "Time workers were at work", "user")
    gpu_s = _counter("gpu_seconds", "The same, for each of the worker's GPUs", "user")
    whole = Tally()
    for name, tally in users.items():
        whole.add(tally)
        for state in ("scored", "failed", "quarantined"):
            trials.add_metric([name, state], tally.trials[state])
        reused.add_metric([name], tally.reused)
        items.add_metric([name], tally.items)
        tokens.add_metric([name], tally.tokens)
        worker_s.add_metric([name], tally.worker_s)
        gpu_s.add_metric([name], tally.gpu_s)
    yield from (trials, reused, items, tokens, worker_s, gpu_s)
    faults = _counter("faults", "Attempts that failed", "cause", "blame")
    for labels, count in sorted(whole.faults.items()):
        faults.add_metric(labels, count)
    yield faults
    seconds = _counter("trial_seconds", "Time of scored trials, by part", "part")
    for part, took_s in sorted(whole.seconds.items()):
        seconds.add_metric([part], took_s)
    yield seconds


def _bounded(users: Mapping[str, Tally]) -> dict[str, Tally]:
    """Put users beyond the first so many together."""
    found: dict[str, Tally] = {}
    for name, tally in users.items():
        own = name == NOBODY or len(found) < MOST_USERS
        found.setdefault(name if own else OTHERS, Tally()).add(tally)
    return found


def _counter(name: str, words: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"evomerge_{name}", words, labels=labels)


def _gauge(name: str, words: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"evomerge_{name}", words, value=value)


def _by(
    name: str, words: str, label: str, values: Mapping[str, float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"evomerge_{name}", words, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family


@dataclass(frozen=True, slots=True)
class Place:
    """Where metrics are told.

    Attributes:
        port: 0 for any that is free.
    """

    host: str = "127.0.0.1"
    port: int = 7078


@contextmanager
def telling(place: Place | None, url: str) -> Iterator[None]:
    """Tell the numbers of a database while the block lasts; nothing without a place.

    Raises:
        SetupError: The address is taken.
    """
    if place is None:
        yield
        return
    with MetricsServer(place, partial(open_meter, url)):
        yield


class MetricsServer:
    """Answers ``GET /metrics`` while it is open; whoever reaches the port may ask.

    Args:
        place: Where; the port is told by ``port``.
        open_meter: See ``ServiceCollector``.

    Raises:
        SetupError: The address is taken.
    """

    def __init__(self, place: Place, open_meter: Callable[[], Meter]) -> None:
        self._collector = ServiceCollector(open_meter)
        registry = CollectorRegistry()
        registry.register(self._collector)
        ProcessCollector(registry=registry)
        try:
            self._server, self._thread = start_http_server(
                place.port, place.host, registry
            )
        except OSError as error:
            raise SetupError(
                f"Cannot tell metrics at {place.host}:{place.port}: {error.strerror}. "
                "Give another --metrics HOST:PORT."
            ) from error
        self.port: int = self._server.server_port

    def close(self) -> None:
        """Answer no more; idempotent."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._collector.close()

    def __enter__(self) -> MetricsServer:
        """Return the server, which is closed at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()
