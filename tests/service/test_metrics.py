"""What Prometheus reads, from a real server, and what dashboards ask for."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from evomerge.errors import SetupError, StoreUnreachableError
from evomerge.service.metrics import (
    FRESH_S,
    MOST_USERS,
    OTHERS,
    MetricsServer,
    Place,
    ServiceCollector,
)
from evomerge.store.meter import NOBODY, Meter, Reading, Tally, open_meter

DOCKER = Path(__file__).parents[2] / "docker"
ANY_PORT = Place(port=0)
Values = dict[str, dict[tuple[str, ...], float]]


@pytest.fixture
def url(searched_file: Path, tmp_path: Path) -> str:
    shutil.copy(searched_file, tmp_path / "searched.db")
    return f"sqlite:///{tmp_path}/searched.db"


@pytest.fixture
def scrape(url: str) -> Iterator[Callable[[], Values]]:
    with MetricsServer(ANY_PORT, partial(open_meter, url)) as server:
        yield partial(scraped, server.port)


def scraped(port: int) -> Values:
    address = f"http://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        text = answer.read().decode()
    found: Values = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            values = found.setdefault(sample.name, {})
            values[tuple(dict(sorted(sample.labels.items())).values())] = sample.value
    return found


def test_numbers_of_the_database_are_told(scrape: Callable[[], Values]) -> None:
    found = scrape()
    assert found["evomerge_database_up"] == {(): 1}
    trials = found["evomerge_trials_total"]
    assert trials["scored", NOBODY] > 0
    assert trials["failed", NOBODY] > 0
    assert found["evomerge_items_total"][NOBODY,] > 0
    assert found["evomerge_faults_total"]["machine", "engine"] > 0
    assert found["evomerge_worker_seconds_total"][NOBODY,] > 0
    assert found["evomerge_trial_seconds_total"]["score",] > 0
    assert len(found["evomerge_jobs"]) == 10
    assert found["evomerge_queue_oldest_seconds"] == {(): 0}


def test_every_metric_of_the_dashboard_exists(scrape: Callable[[], Values]) -> None:
    found = scrape()
    text = (DOCKER / "grafana" / "evomerge.json").read_text()
    panels = json.loads(text)["panels"]
    asked = [t["expr"] for panel in panels for t in panel["targets"]]
    names = {name for expr in asked for name in re.findall(r"evomerge_\w+", expr)}
    assert names <= found.keys()
    own = {name for name in found if name.startswith("evomerge_")}
    assert own == names, "the dashboard shows every metric there is"
    for expr in asked:
        labels = re.findall(r"(?:by|ignoring) \(([^)]*)\)", expr)
        assert labels or "by" not in expr.split()


def test_the_dashboard_is_one_that_grafana_reads() -> None:
    board = json.loads((DOCKER / "grafana" / "evomerge.json").read_text())
    assert {"title", "uid", "panels", "schemaVersion", "templating"} <= board.keys()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for other in board["panels"]:
            assert other is panel or not _overlap(place, other["gridPos"])


def _overlap(one: dict[str, int], two: dict[str, int]) -> bool:
    return all(
        one[at] < two[at] + two[long] and two[at] < one[at] + one[long]
        for at, long in (("x", "w"), ("y", "h"))
    )


def test_prometheus_is_told_where_replicas_tell_metrics() -> None:
    config = yaml.safe_load((DOCKER / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert "metrics_path" not in job, "it is /metrics if nothing else is said"
    targets = [target for each in job["static_configs"] for target in each["targets"]]
    assert {target.partition(":")[2] for target in targets} == {str(Place().port)}


def test_metrics_are_told_to_this_machine_alone_by_default() -> None:
    assert Place().host == "127.0.0.1"


def test_a_port_that_is_taken_is_told(url: str) -> None:
    with MetricsServer(ANY_PORT, partial(open_meter, url)) as server:
        taken = Place(port=server.port)
        with pytest.raises(SetupError, match="Give another --metrics"):
            MetricsServer(taken, partial(open_meter, url))


class Pretended(Meter):
    """A meter that reads what the test says."""

    def __init__(self) -> None:
        self.reads = 0
        self.away = False
        self.users: dict[str, Tally] = {}

    def read(self) -> Reading:
        self.reads += 1
        if self.away:
            raise StoreUnreachableError("Nobody answers.")
        return Reading({"queued": 1}, 2.5, self.users, Counter(), {"ready": 4}, 3)

    def close(self) -> None:
        pass


class Setting:
    """A collector over a pretended meter, and a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.meter = Pretended()
        self.collector = ServiceCollector(lambda: self.meter, lambda: self.now)

    def names(self) -> set[str]:
        return {metric.name for metric in self.collector.collect()}

    def value(self, name: str, **labels: str) -> float:
        (metric,) = [m for m in self.collector.collect() if m.name == name]
        return next(s.value for s in metric.samples if s.labels == labels)


def test_who_asks_soon_again_is_told_the_same() -> None:
    setting = Setting()
    setting.names()
    setting.now = FRESH_S - 0.1
    setting.names()
    assert setting.meter.reads == 1
    setting.now = FRESH_S
    setting.names()
    assert setting.meter.reads == 2


def test_without_the_database_only_that_is_told() -> None:
    setting = Setting()
    assert "evomerge_items" in setting.names()
    setting.meter.away = True
    setting.now += FRESH_S
    assert setting.names() == {"evomerge_database_up", "evomerge_reading_seconds"}
    assert setting.value("evomerge_database_up") == 0
    setting.meter.away = False
    setting.now += FRESH_S
    assert setting.value("evomerge_database_up") == 1
    assert setting.value("evomerge_utilisation_ratio") == 0.75


def test_there_are_no_more_labels_however_many_users_there_are() -> None:
    setting = Setting()
    setting.meter.users = {f"user-{n}": Tally(items=1) for n in range(150)}
    setting.meter.users[NOBODY] = Tally(items=7)
    (items,) = [m for m in setting.collector.collect() if m.name == "evomerge_items"]
    told = {sample.labels["user"]: sample.value for sample in items.samples}
    assert len(told) == MOST_USERS + 2
    assert told[OTHERS] == 150 - MOST_USERS
    assert told[NOBODY] == 7
