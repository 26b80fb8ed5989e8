"""A stranger's package adds parts, and studies use them where that is allowed."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from evomerge import plugins
from evomerge.errors import PluginError, SpecError
from evomerge.specs.studies.study_file import read_study
from evomerge.testing.models import tiny_model

PARTS = '''
"""A package of a stranger."""

import torch

from evomerge.core.operators.catalogue import Knob, Operator
from evomerge.core.flow.layer_pool import Step
from evomerge.core.measures import MeasureSource
from evomerge.core.space import IntAxis
from evomerge.merging.operators.inputs import Inputs
from evomerge.specs.planning.flow_planner import FlowKind
from evomerge.scoring.engine import LoglikelihoodRequest
from evomerge.scoring.item_source import ItemSource
from evomerge.scoring.simulated.engine import SimulatedEngine
from evomerge.strategies.ask_tell_guard import GuardedStrategy
from evomerge.strategies.base import Proposal, scope
from evomerge.strategies.strategy_info import Option, StrategyInfo


class Median:
    row = Operator(
        "median",
        "Middle value of every entry.",
        "a stranger",
        (Knob("shift", "float", 0.0, "Added to it.", low=0.0, high=1.0),),
        least_inputs=2,
    )

    @staticmethod
    def merge(inputs: Inputs) -> torch.Tensor:
        middle = torch.stack([one.float() for one in inputs.tensors]).median(0).values
        return middle + inputs.settings.number("shift")


class Halves(GuardedStrategy):
    info = StrategyInfo(
        "halves",
        "Points drawn from the lower half of every axis.",
        (Option("part", "float", 0.5, "How much of an axis.", 0.0, 1.0),),
        generation_size=lambda n_axes: 2,
    )

    def _propose(self, generation):
        return Proposal(
            tuple(
                self._space.random(scope(self._seed, generation, index))
                for index in range(self._size)
            )
        )

    def _learn(self, generation, results):
        pass


class Backwards:
    """The layers of one source in the other order, from a searched one on."""

    kind = FlowKind(is_of_one=True, reach=lambda depths: depths[0])

    def __init__(self, stock, scales):
        self.stock = stock
        low = stock.shallowest
        self.axis = IntAxis("first", low, stock.depth, stock.depth)
        self.strands = (((self.axis,),),)
        self.n_stacks = stock.depth - low + 1

    def most_of(self, layers):
        return len(layers)

    def steps(self, point):
        first = int(point["first"])
        return tuple(Step(self.stock.first, i) for i in reversed(range(first)))


class Shift(MeasureSource):
    """How far the median is moved."""

    metrics = {"size": False}

    def values(self, metrics, found):
        (_, operation), *_ = found.recipe.embed.roles
        return {"size": dict(operation.shared).get("shift", 0.0)}


class Surprise(ItemSource):
    """How unlikely the last letter of a word is."""

    metrics = {"nats": False}
    keys = ("word",)

    def measured(self, items, engine, kept):
        words = [tuple(engine.tokenizer.encode(item["word"])) for item in items]
        asked = [LoglikelihoodRequest(word[:-1], word[-1:]) for word in words]
        for answer in engine.loglikelihood(asked):
            yield {"nats": -answer.logprob}


class Quiet(SimulatedEngine):
    """An engine that counts what it is asked."""
'''
ENTRY_POINTS = """
[evomerge.operators]
median = strangers_kit.parts:Median
[evomerge.flows]
backwards = strangers_kit.parts:Backwards
[evomerge.measures]
shift = strangers_kit.parts:Shift
surprise = strangers_kit.parts:Surprise
[evomerge.engines]
quiet = strangers_kit.parts:Quiet
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of installed packages with the stranger's in it."""
    folder = tmp_path / "site"
    (folder / "strangers_kit").mkdir(parents=True)
    (folder / "strangers_kit" / "__init__.py").touch()
    (folder / "strangers_kit" / "parts.py").write_text(PARTS)
    info = folder / "strangers_kit-1.0.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text("Name: strangers-kit\nVersion: 1.0\n")
    info.joinpath("entry_points.txt").write_text(ENTRY_POINTS)
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for seed, name in enumerate("abc"):
        tiny_model(tmp_path / name, n_layers=1, seed=seed)
    said: dict[str, Any] = {
        "name": "strange",
        "sources": {name: name for name in "abc"},
        "space": {"operator": "median", "knobs": {"shift": "search"}},
        "tasks": {
            "add": {"task": "simulated", "metric": "acc"},
            "words": {
                "task": "surprise",
                "include": "words",
                "options": {"data": "w.jsonl"},
            },
        },
        "objectives": [{"measure": "add"}, {"measure": "shift/size"}],
        "constraints": [{"measure": "words/nats", "at_most": 9.0}],
        "engine": {"kind": "quiet"},
        "strategy": {"kind": "strangers_kit.parts:Halves", "options": {"part": 0.25}},
        "budget": {"trials": 4},
    }
    (tmp_path / "words").mkdir()
    rows = [json.dumps({"word": f"word {number}"}) for number in range(12)]
    (tmp_path / "words" / "w.jsonl").write_text("\n".join(rows))
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(said))
    return file


SEARCH = """
import json, sys
from evomerge import api

folder = sys.argv[1]
db = f"sqlite:///{folder}/db"
study = api.run(f"{folder}/study.yaml", db=db, in_process=True)
last = study.trials()[-1]
study.export(f"{folder}/best", trial=last["number"])
print(json.dumps(last))
"""


def ran(site: Path, *words: object, allowed: str = "strangers_kit") -> Any:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}
    env["EVOMERGE_PLUGINS"] = allowed
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=env)


def check(site: Path, study: Path, **how: str) -> Any:
    return ran(site, "-m", "evomerge", "check", study, **how)


@pytest.mark.timeout(180)
def test_a_study_runs_with_the_parts_of_a_strangers_package(
    site: Path, study: Path, tmp_path: Path
) -> None:
    ended = ran(site, "-c", SEARCH, tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    last = json.loads(ended.stdout.splitlines()[-1])
    recipe = json.loads((tmp_path / "best" / "recipe.json").read_text())
    assert "median" in json.dumps(recipe)
    parents = [load_file(tmp_path / name / "model.safetensors") for name in "abc"]
    merged = load_file(tmp_path / "best" / "model.safetensors")
    name = "model.norm.weight"
    middle = torch.stack([one[name] for one in parents]).median(0).values
    assert torch.allclose(merged[name], middle + last["point.shift"])
    assert last["shift/size"] == last["point.shift"]
    assert 0.0 < last["words/nats"] <= 3.0


def test_a_space_has_the_data_flow_of_a_strangers_package(
    site: Path, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv(plugins.ALLOWED, "strangers_kit")
    tiny_model(study.parent / "deep", n_layers=4)
    said = yaml.safe_load(study.read_text())
    flow = {"kind": "backwards", "sources": ["deep"], "depth": {"min": 2}}
    said |= {"sources": {"deep": "deep"}, "space": {"flow": flow}}
    said |= {"engine": {"kind": "simulated"}, "strategy": {"kind": "random"}}
    study.write_text(yaml.safe_dump(said))
    found = read_study(study)
    assert [axis.name for axis in found.space.axes] == ["first"]
    slots = found.blueprint.recipe({"first": 3}).slots
    assert [slot.layer_of("deep") for slot in slots] == [2, 1, 0]
    flow["kind"] = "forwards"
    study.write_text(yaml.safe_dump(said))
    with pytest.raises(SpecError, match="or 'backwards', got 'forwards'"):
        read_study(study)


def test_without_leave_no_line_of_a_strangers_code_runs(
    site: Path, study: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "ran"
    parts = site / "strangers_kit" / "parts.py"
    parts.write_text(f"open({str(trace)!r}, 'w')\n{PARTS}")
    refused = check(site, study, allowed="another")
    assert refused.returncode != 0
    assert refused.stderr.count("set EVOMERGE_PLUGINS=strangers_kit") == 5
    assert not trace.exists()


def test_all_that_is_installed_means_entry_points_and_not_any_object(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(plugins.ALLOWED, "*")
    with pytest.raises(PluginError, match="may not load"):
        plugins.find("engines", "os:system")
    monkeypatch.setenv(plugins.ALLOWED, "os, collections")
    assert plugins.find("engines", "collections.abc:Mapping") is Mapping
    assert plugins.find("engines", "no name: of a part") is None


def test_what_cannot_be_loaded_says_why_with_all_other_mistakes(
    site: Path, study: Path
) -> None:
    parts = site / "strangers_kit" / "parts.py"
    parts.write_text(PARTS.replace("class Median:\n    row", "class Median:\n    raw"))
    said = yaml.safe_load(study.read_text())
    said["strategy"]["kind"] = "strangers_kit.nowhere:Halves"
    said["engine"]["kind"] = "quite"
    study.write_text(yaml.safe_dump(said))
    refused = check(site, study)
    assert refused.returncode != 0
    assert "'median' is no operator: expected a class with `row`" in refused.stderr
    assert "No module named 'strangers_kit.nowhere'" in refused.stderr
    assert "did you mean 'quiet'" in refused.stderr
