"""The vllm engine in this process; each class starts vLLM twice, one after another."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, fields
from typing import Any

import pytest

from evomerge.core.work import EngineSettings
from evomerge.errors import SelfTestError, SpecError, WorkerError
from evomerge.scoring.engine import Engine, GenerateRequest, LoglikelihoodRequest
from evomerge.scoring.engines import open_engine
from evomerge.scoring.self_test import Probe, kept_probe, run_self_test
from evomerge.scoring.vllm import worker
from evomerge.scoring.vllm.engine import VllmEngine, _machine_faults
from evomerge.specs.completing.engine_options import option_mistakes
from evomerge.testing.engine_contract import EngineContract, SwapContract
from evomerge.testing.parents import Parents, probed

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


_OTHER_PROCESS = """
import json, sys
from evomerge.core.work import EngineSettings, WorkerSetup
from evomerge.scoring.engines import open_engine
from evomerge.errors import CandidateError
from evomerge.core.recipes.recipe import Recipe

if __name__ == "__main__":
    data = json.loads(sys.argv[1])
    settings = EngineSettings(**data.pop("engine"))
    engine = open_engine(WorkerSetup(engine=settings, tasks=(), **data))
    result = engine.self_test()
    try:
        engine.swap(Recipe.from_json(json.loads(sys.argv[2])))
    except CandidateError as error:
        refused = str(error)
    kind = type(engine._llm.llm_engine.engine_core).__name__
    engine.close()
    print(json.dumps([result.probe_difference, result.return_difference]))
    print(json.dumps([refused, kind]))
"""


class Vllm:
    kind = "vllm"
    open_engine = staticmethod(open_engine)


class TestUntiedLlama(Vllm, EngineContract):
    def test_self_test_passes(
        self, engine: Engine, parents: Parents, cold_b: Probe
    ) -> None:
        setup = probed(parents.setup("a", self.settings()), parents)
        result = run_self_test(engine, setup, lambda _: cold_b)
        assert (result.probe_difference, result.return_difference) == (0.0, 0.0)

    def test_prompts_longer_than_one_step_are_scored_alike(
        self, engine: Engine
    ) -> None:
        long = LoglikelihoodRequest(tuple(range(5, 125)), (7, 8))
        alone = engine.loglikelihood([long])[0].logprob
        # More tokens than vLLM takes in one step, so that prompts are split.
        crowd = engine.loglikelihood([long] * 100)
        assert {round(score.logprob - alone, 3) for score in crowd} == {0.0}

    def test_weights_are_written_over_those_it_computes_with(
        self, engine: Engine
    ) -> None:
        assert isinstance(engine, VllmEngine)
        [(ways, buffers)] = engine._llm.collective_rpc(_ways_in)
        assert ways == "Overwriting"
        # One buffer for each linear map of one layer serves all layers.
        assert 0 < buffers <= 4


def _ways_in(worker: Any) -> tuple[str, int]:
    found = worker._evomerge_overwriting
    return type(found).__name__, sum(map(len, found._buffers.values()))


class TestTiedLlamaHalf(Vllm, SwapContract):
    tied = True
    dtype = "bfloat16"


class TestTiedQwen2(Vllm, SwapContract):
    family = "qwen2"
    tied = True

    def test_self_test_refuses_when_the_tied_head_is_not_repacked(
        self,
        engine: Engine,
        parents: Parents,
        cold_b: Probe,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        setup = probed(parents.setup("a", self.settings()), parents)
        assert run_self_test(engine, setup, lambda _: cold_b).probe_difference == 0.0
        monkeypatch.setattr(worker, "refresh_tied_head", lambda *_, **__: None)
        with pytest.raises(SelfTestError, match="probe parent, swapped in, differs"):
            run_self_test(engine, setup, lambda _: cold_b)

    @pytest.mark.long
    @pytest.mark.timeout(600)
    def test_engine_in_a_process_of_its_own_passes_the_self_test(
        self, engine: Engine, parents: Parents, cold_b: Probe
    ) -> None:
        setup = probed(parents.setup("a", self.settings()), parents)
        # Kept from this process, so that the other need not start a second engine.
        kept_probe(engine.facts, setup, lambda _: cold_b)
        plain = {name: getattr(setup, name) for name in ("frame", "probe", "cache_dir")}
        plain |= {"sources": dict(setup.sources), "engine": asdict(setup.engine)}
        script = parents.folder / "script.py"
        script.write_text(_OTHER_PROCESS)
        not_finite = json.dumps(parents.blend(3e38).to_json())
        done = subprocess.run(
            [sys.executable, str(script), json.dumps(plain), not_finite],
            env=os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
            capture_output=True,
            text=True,
            timeout=570,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        differences, (refused, kind) = map(json.loads, done.stdout.splitlines()[-2:])
        assert differences == [0.0, 0.0]
        assert "not finite" in refused
        assert kind == "SyncMPClient"


class TestUntiedQwen2Half(Vllm, SwapContract):
    family = "qwen2"
    dtype = "bfloat16"


# With those above every pair of family, tying and type is there; these are the rest.


@pytest.mark.long
class TestTiedLlama(Vllm, SwapContract):
    tied = True


@pytest.mark.long
class TestUntiedQwen2(Vllm, SwapContract):
    family = "qwen2"


@pytest.mark.long
class TestUntiedLlamaHalf(Vllm, SwapContract):
    dtype = "bfloat16"


@pytest.mark.long
class TestTiedQwen2Half(Vllm, EngineContract):
    family = "qwen2"
    tied = True
    dtype = "bfloat16"


def test_unknown_option_is_named_with_the_nearest_known_one(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    parents = Parents(tmp_path_factory.mktemp("parents")).write()
    settings = EngineSettings(kind="vllm", options={"block_sise": 16})
    with pytest.raises(SpecError, match=r"engine\.options\.block_sise.*'block_size'"):
        open_engine(parents.setup("a", settings))


def test_start_that_fails_is_the_machines_fault(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    parents = Parents(tmp_path_factory.mktemp("parents")).write()
    settings = EngineSettings(kind="vllm", kv_cache_bytes=1)
    with pytest.raises(WorkerError, match="failed to start"):
        open_engine(parents.setup("a", settings))


def test_an_error_without_a_message_is_told_by_its_line() -> None:
    told = r"start: ValueError: raise ValueError \(test_vllm_engine.py:\d+\)"
    with pytest.raises(WorkerError, match=told), _machine_faults("start"):
        raise ValueError


@pytest.mark.long
def test_probe_is_measured_before_the_start_and_again_if_lost(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    parents = Parents(tmp_path_factory.mktemp("parents"), tied=True).write()
    settings = EngineSettings(kind="vllm", max_model_len=64, kv_cache_bytes=16 << 20)
    engine = open_engine(probed(parents.setup("a", settings), parents))
    (kept,) = (parents.folder / "cache" / "self_test").glob("*.json")
    first = kept.read_bytes()
    kept.unlink()
    result = engine.self_test()
    assert (result.probe_difference, result.return_difference) == (0.0, 0.0)
    assert kept.read_bytes() == first
    assert len(engine.generate([GenerateRequest((5, 6, 7), 4)])) == 1
    engine.close()


def test_arguments_read_from_the_source_are_those_of_the_class() -> None:
    from vllm.engine.arg_utils import EngineArgs

    defaults = {
        field.name: field.default
        for field in fields(EngineArgs)
        if isinstance(field.default, bool | int | float | str)
    }
    assert len(defaults) > 50
    assert [name for name, _ in option_mistakes(defaults)] == ["worker_extension_cls"]
