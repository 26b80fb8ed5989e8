import importlib.metadata
import sys

import pytest

from evomerge.core.work import EngineSettings, TaskSettings, WorkerSetup
from evomerge.errors import SpecError
from evomerge.scoring.evaluator import Evaluator

INSIDES = "evomerge.scoring.harness.internals"


@pytest.mark.parametrize("version", ["0.5.0.dev1", "0.5.0", "0.4.9.1", None])
def test_another_lm_eval_is_told_before_any_engine_starts(version, monkeypatch):
    def installed(name):
        if name == "lm_eval" and version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    monkeypatch.delitem(sys.modules, INSIDES, raising=False)
    task = TaskSettings("sums", "sums")
    setup = WorkerSetup(EngineSettings("no such"), (task,), {}, "f", None, "/nowhere")
    said = rf"lm_eval: expected version 0\.4\.13, .* got {version or 'none'}; run `pip"
    with pytest.raises(SpecError, match=said):
        Evaluator(setup)


def test_a_study_without_tasks_of_lm_eval_does_not_ask_for_it(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.5.0")
    monkeypatch.delitem(sys.modules, INSIDES, raising=False)
    setup = WorkerSetup(EngineSettings("no such"), (), {}, "f", None, str(tmp_path))
    with pytest.raises(SpecError, match="expected 'vllm', 'hf' or 'simulated'"):
        Evaluator(setup)
