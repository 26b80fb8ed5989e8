"""Nodes that fail, come and go under real studies: raylets of their own, real commands.

All of them are on this machine; what tells them apart is their environment.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.ray_nodes import RayNodes

import evomerge
from evomerge.store.sql import open_store
from evomerge.testing.models import tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(1500)]
LIMIT_S = 300.0


class Site:
    """A cluster, and a folder with studies and their database."""

    def __init__(self, nodes: RayNodes, folder: Path) -> None:
        self.nodes = nodes
        self.folder = folder
        self.db = f"sqlite:///{folder}/studies.db"
        tiny_model(folder / "a", n_layers=1, seed=1)
        tiny_model(folder / "b", n_layers=1, seed=2)

    def study(self, name: str, **more: Any) -> Path:
        said = {
            "sources": {"a": "a", "b": "b"},
            "space": {"operator": "linear", "knobs": {"weight": "search"}},
            "tasks": {
                "x": {"task": "simulated", "metric": "acc", "options": {"sleep_s": 0.2}}
            },
            "engine": {"kind": "simulated"},
            "strategy": {"kind": "random", "generation_size": 4},
            "budget": {"trials": 8},
            **more,
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(said))
        return path

    def begin(self, study: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "evomerge", "run", str(study), "--json"]
        env = {**self.nodes.env, "EVOMERGE_CACHE": str(self.folder / "own")}
        return subprocess.Popen(
            [*command, "--address", self.nodes.address, "--db", self.db],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def events(self, study: str, kind: str) -> list[Mapping[str, Any]]:
        store = open_store(self.db)
        try:
            return [e.data for e in store.events(store.study(study).id, kind)]
        finally:
            store.close()

    def wait(self, study: str, kind: str, n: int) -> list[Mapping[str, Any]]:
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            try:
                found = self.events(study, kind)
            except evomerge.errors.StoreError:
                found = []
            if len(found) >= n:
                return found
            time.sleep(0.5)
        raise AssertionError(f"no {n} events {kind} of {study} within {LIMIT_S} s")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    nodes = RayNodes(folder)
    try:
        nodes.start_head()
        yield Site(nodes, folder)
    finally:
        nodes.close()


@pytest.fixture
def node(site: Site) -> Iterator[Callable[..., None]]:
    """Return a function that starts a node, which is gone after the test."""
    there: list[str] = []

    def start(name: str, **env: str) -> None:
        site.nodes.start(name, env)
        there.append(name)

    yield start
    for name in there:
        site.nodes.stop(name)


@pytest.mark.skipif(os.getuid() != 0, reason="mounts over a folder")
def test_what_a_node_lacks_is_fetched_into_its_own_cache(site: Site) -> None:
    models = site.folder / "models"
    for seed, name in enumerate("ab"):
        tiny_model(models / name, n_layers=1, seed=seed)
    cache = site.folder / "fetched"
    site.nodes.start("far", {"EVOMERGE_CACHE": str(cache)}, {models: None})
    try:
        sources = {name: str(models / name) for name in "ab"}
        study = site.study("fetches", workers=1, sources=sources, engine={"kind": "hf"})
        _, err = (run := site.begin(study)).communicate(timeout=LIMIT_S)
        assert run.returncode == 0, err
        fetched = [path for path in (cache / "models").iterdir() if path.is_dir()]
        there = {(path / "model.safetensors").read_bytes() for path in fetched}
        here = {(models / name / "model.safetensors").read_bytes() for name in "ab"}
        assert there == here
    finally:
        site.nodes.stop("far")


def no_cache(site: Site) -> str:
    """Return a folder that cannot be made."""
    (site.folder / "file").touch()
    return str(site.folder / "file" / "cache")


OURS = Path(evomerge.__file__).parent


def another_evomerge(site: Site) -> Path:
    """Return where there is one with a file that differs."""
    root = site.folder / "other"
    if not root.exists():
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(OURS, root, ignore=ignore)
        with (root / "masking.py").open("a") as file:
            file.write("# Not as elsewhere.\n")
    return root


def test_a_node_that_cannot_work_is_set_aside_and_one_that_comes_is_used(
    site: Site, node: Callable[..., None]
) -> None:
    node("good", EVOMERGE_CACHE=str(site.folder / "good"))
    node("bad", EVOMERGE_CACHE=no_cache(site))
    tasks = {"x": {"task": "simulated", "metric": "acc", "options": {"sleep_s": 2.0}}}
    run = site.begin(site.study("goes_on", workers=3, tasks=tasks))
    (aside,) = site.wait("goes_on", "node_set_aside", 1)
    assert "cannot be written" in aside["reason"]
    first = site.wait("goes_on", "worker", 1)
    node("late", EVOMERGE_CACHE=str(site.folder / "late"))
    both = site.wait("goes_on", "worker", 2)
    out, err = run.communicate(timeout=LIMIT_S)
    assert run.returncode == 0, err
    assert json.loads(out)["trials"] == 8
    used = {worker["node_id"] for worker in both}
    assert len(used) == 2
    assert first[0]["node_id"] in used
    assert aside["id"] not in used
    assert f"Node {aside['host']} ({aside['ip']}) is set aside" in err
    assert "of 3 workers, waiting for a core, 1 node set aside" in err


def test_where_all_nodes_fail_alike_the_study_ends_at_once_with_the_reason(
    site: Site, node: Callable[..., None]
) -> None:
    for name in ("bad1", "bad2"):
        node(name, EVOMERGE_CACHE=no_cache(site))
    run = site.begin(site.study("alike", workers=2))
    _, err = run.communicate(timeout=LIMIT_S)
    assert run.returncode == 2, err
    assert "2 nodes failed alike" in err
    assert "Set EVOMERGE_CACHE on that node" in err
    assert "Traceback" not in err


@pytest.mark.skipif(os.getuid() != 0, reason="mounts over a folder")
def test_another_evomerge_is_named_and_a_study_without_a_node_waits_and_ends(
    site: Site, node: Callable[..., None]
) -> None:
    node("bad", EVOMERGE_CACHE=no_cache(site))
    site.nodes.start("other", mounts={OURS: another_evomerge(site)})
    try:
        run = site.begin(site.study("waits", workers=2, start_patience_s=5))
        _, err = run.communicate(timeout=LIMIT_S)
    finally:
        site.nodes.stop("other")
    assert run.returncode == 75, err
    assert "other files of evomerge" in err
    assert "No node that a worker could run on for" in err
    reasons = [event["reason"] for event in site.events("waits", "node_set_aside")]
    assert len(reasons) == 2
