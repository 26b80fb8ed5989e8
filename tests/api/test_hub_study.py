"""Parents and a library task from a hub: searched, resumed without it, exported."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.arc import REPO, write_arc
from support.commands import Commands, Ended
from support.hub import LoopbackHub
from support.study_files import write_study

from evomerge.checkpoints import read_model
from evomerge.testing.models import tiny_model

pytestmark = pytest.mark.slow

STUDY: Mapping[str, Any] = {
    "sources": {"base": "tiny/base", "math": "hf://tiny/math@main"},
    "space": {
        "operator": "task_arithmetic",
        "base": "base",
        "knobs": {"weight": "search"},
    },
    "tasks": {"arc": {"task": "arc_easy", "metric": "acc_norm"}},
    "items": {"blocks": 2},
    "strategy": {"kind": "cma", "generation_size": 4},
    "engine": {"kind": "hf"},
    "workers": 1,
    "budget": {"trials": 4},
}
COMMANDS = """
import json, sys
from evomerge.cli.app import main
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as ended:
        if ended.code:
            raise
"""
HOME = Path("hf")
"""Of the hub's cache, in the folder of each command."""


@dataclass(frozen=True)
class Place:
    """A folder, a hub, and processes that know no other."""

    folder: Path
    hub: LoopbackHub
    commands: Commands

    def run(self, *words: object) -> Ended:
        """Run a command."""
        return self.commands.run(self.folder, *words)

    def call(self, *words: object) -> str:
        """Run a command that succeeds, and return what it printed."""
        return self.commands.call(self.folder, *words)

    def call_offline(self, *commands: Sequence[str]) -> None:
        """Run commands that succeed in a process that asks no hub."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        ours = {"XDG_CACHE_HOME": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}
        hub = {**self.hub.environment(self.folder / HOME), "HF_HUB_OFFLINE": "1"}
        ended = subprocess.run(
            [sys.executable, "-c", COMMANDS, json.dumps(commands)],
            cwd=self.folder,
            env={**kept, **ours, **hub},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr

    def trials(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self.call("trials", "arc", "--json"))
        return rows

    def copy(self, to: Path) -> "Place":
        """Return the same place elsewhere, with the same hub."""
        shutil.copytree(self.folder, to, symlinks=True, dirs_exist_ok=True)
        return Place(to, self.hub, self.commands)


@pytest.fixture(scope="module")
def searched(
    hub: LoopbackHub, commands: Commands, tmp_path_factory: pytest.TempPathFactory
) -> Place:
    """A finished search over two models and a data set of a hub."""
    folder = tmp_path_factory.mktemp("searched")
    models = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "math")):
        made = tiny_model(models / name, seed=seed, n_layers=2)
        hub.commit(f"tiny/{name}", made)
    hub.commit(REPO, write_arc(models / "arc", 32), kind="datasets")
    place = Place(folder, hub, commands)
    write_study(folder / "arc.yaml", STUDY)
    place.call("run", "arc.yaml", "--in-process")
    return place


@pytest.fixture
def place(searched: Place, tmp_path: Path) -> Iterator[Place]:
    """A copy of the finished search; the hub is put back as it was."""
    repository = searched.hub.repositories["models", "tiny/math"]
    refs = dict(repository.refs)
    searched.hub.requests.clear()
    yield searched.copy(tmp_path / "place")
    repository.refs = refs
    searched.hub.failing_with = None


def test_a_library_task_is_scored_on_models_of_a_hub(searched: Place) -> None:
    rows = searched.trials()
    assert [row["state"] for row in rows] == ["scored"] * 6
    scores = [row["scores"]["arc/acc_norm"] for row in rows]
    assert all(0.0 <= score <= 1.0 for score in scores)
    assert len(set(scores)) > 1, "the models should not answer alike"
    with sqlite3.connect(searched.folder / "evomerge.db") as database:
        (allowance,) = database.execute("select allowance from em_study").fetchone()
    kept = json.loads(allowance)["sources"]
    for name in ("base", "math"):
        commit = searched.hub.repositories["models", f"tiny/{name}"].refs["main"]
        assert kept[name] == f"hf://tiny/{name}@{commit}"


def test_resume_takes_the_recorded_commit_though_the_branch_moved(
    place: Place, tmp_path: Path
) -> None:
    before = place.trials()
    place.hub.commit("tiny/math", tiny_model(tmp_path / "new", seed=7, n_layers=2))
    place.call("resume", "arc", "--trials", 8, "--in-process")
    after = place.trials()
    assert len(after) == 10
    assert after[:6] == before
    assert not any("tiny/" in asked.path for asked in place.hub.requests)
    again = place.run("run", "arc.yaml", "--in-process")
    assert again.returncode == 2
    assert "sources.math: " in again.stderr
    assert "evomerge resume arc" in again.stderr


def test_a_lost_cache_is_filled_again_with_the_recorded_commit(
    place: Place, tmp_path: Path
) -> None:
    commit = place.hub.repositories["models", "tiny/math"].refs["main"]
    place.hub.commit("tiny/math", tiny_model(tmp_path / "new", seed=7, n_layers=2))
    shutil.rmtree(place.folder / "hf" / "hub" / "models--tiny--math")
    place.call("resume", "arc", "--trials", 5, "--in-process")
    asked = {asked.path for asked in place.hub.requests if "tiny/math" in asked.path}
    assert asked
    assert all(commit in path for path in asked)


def test_resume_and_export_need_no_hub(place: Place) -> None:
    place.hub.failing_with = 503
    place.call_offline(
        ("resume", "arc", "--trials", "5", "--in-process"), ("export", "arc", "best")
    )
    assert place.hub.requests == []
    card = (place.folder / "best" / "README.md").read_text(encoding="utf-8")
    assert "arc" in card
    recipe = json.loads((place.folder / "best" / "recipe.json").read_text())
    recipe["paths"] = {name: f"tiny/{name}" for name in recipe["inputs"]}
    (place.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    place.hub.failing_with = None
    place.call("merge", "recipe.yaml", "merged")
    models = [read_model(place.folder / name) for name in ("best", "merged")]
    assert models[0].fingerprint == models[1].fingerprint


def test_every_source_that_is_nowhere_is_told(place: Place) -> None:
    sources = {"base": "models/base", "math": "tiny/math@gone", "ja": "tiny/base"}
    write_study(place.folder / "bad.yaml", {**STUDY, "sources": sources})
    for changes in ({}, {"seed": -1}):
        study = {**STUDY, **changes, "sources": sources}
        write_study(place.folder / "bad.yaml", study)
        ended = place.run("check", "bad.yaml", "--no-dry-run")
        assert ended.returncode == 2
        for told in (
            "sources.base: expected a model: there is no folder 'models/base', and as "
            f"a hub id: the hub ({place.hub.url}) has no model 'models/base'",
            f"the hub ({place.hub.url}) has no revision 'gone' of 'tiny/math'",
        ):
            assert told in ended.stderr
        assert "sources.ja" not in ended.stderr
        assert ("seed" in ended.stderr) is bool(changes)


def test_a_data_set_that_cannot_be_had_stops_the_study_with_its_name(
    place: Place,
) -> None:
    study = {**STUDY, "tasks": {"qa": {"task": "openbookqa", "metric": "acc"}}}
    write_study(place.folder / "other.yaml", study)
    ended = place.run("run", "other.yaml", "--in-process")
    assert ended.returncode == 2, ended.stderr
    assert "allenai/openbookqa" in ended.stderr


def test_a_worker_that_lacks_a_folder_fetches_the_commit_by_itself(
    place: Place,
) -> None:
    program = (
        "import sys\n"
        "from evomerge.checkpoints import hub, read_model\n"
        "from evomerge.core.work import EngineSettings, WorkerSetup\n"
        "from evomerge.scoring.evaluator import Evaluator\n"
        "name, origin = sys.argv[1:]\n"
        "setup = WorkerSetup(EngineSettings('hf'), (), {name: '/gone'}, name, None,\n"
        "                    'cache', {name: origin})\n"
        "worker = Evaluator(setup)\n"
        "print(worker.ready('w').worker)\n"
        "worker.close()\n"
    )
    commit = place.hub.repositories["models", "tiny/math"].refs["main"]
    snapshots = place.folder / "hf/hub/models--tiny--math/snapshots"
    name = read_model(snapshots / commit).fingerprint
    shutil.rmtree(place.folder / "hf")
    origin = f"hf://tiny/math@{commit}"
    ended = place.commands.python(place.folder, program, name, origin)
    assert ended.stdout.strip() == "w", ended.stderr
    assert (snapshots / commit / "model.safetensors").is_file()


def test_doctor_proves_an_engine_on_a_model_of_a_hub(place: Place) -> None:
    said = place.call("doctor", "--engine", "tiny/base@main", "--kind", "hf", "--json")
    found = {finding["name"]: finding["verdict"] for finding in json.loads(said)}
    assert found["engine hf on tiny/base@main"] == "ok"
