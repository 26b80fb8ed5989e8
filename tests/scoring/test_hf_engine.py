import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.study_files import leave_quantization_behind

from evomerge.core.work import EngineSettings
from evomerge.errors import CandidateError, CheckpointError, SpecError
from evomerge.scoring.engine import GenerateRequest, LoglikelihoodRequest
from evomerge.scoring.engines import open_engine
from evomerge.scoring.hf.engine import HfEngine
from evomerge.scoring.self_test import Probe
from evomerge.testing.engine_contract import EngineContract, SwapContract
from evomerge.testing.parents import Parents, probed

# Whoever comes first imports transformers, which a busy machine does not do in 60 s.
pytestmark = pytest.mark.timeout(300)

SETTINGS = EngineSettings(kind="hf", max_model_len=64)


class Hf:
    kind = "hf"
    open_engine = staticmethod(open_engine)


class TestUntied(Hf, EngineContract):
    pass


class TestTied(Hf, SwapContract):
    family = "qwen2"
    tied = True


class TestHalfPrecision(Hf, SwapContract):
    dtype = "bfloat16"


@pytest.mark.long
class TestTiedHalfPrecision(Hf, EngineContract):
    family = "qwen2"
    tied = True
    dtype = "bfloat16"


@pytest.fixture
def parents(tmp_path: Path) -> Parents:
    return Parents(tmp_path).write()


def test_self_test_finds_no_difference_and_keeps_the_probe(parents: Parents) -> None:
    setup = probed(parents.setup("a", SETTINGS), parents)
    engine = open_engine(setup)
    result = engine.self_test()
    assert (result.probe_difference, result.return_difference) == (0.0, 0.0)
    assert result.swap_s > 0
    (kept,) = (parents.folder / "cache" / "self_test").glob("*.json")
    before = kept.stat().st_mtime_ns
    assert engine.self_test().probe_difference == 0.0
    assert kept.stat().st_mtime_ns == before
    assert len(json.loads(kept.read_text())["logprobs"]) > 10
    engine.close()


def test_self_test_says_when_there_is_nothing_to_probe_with(parents: Parents) -> None:
    engine = open_engine(parents.setup("a", SETTINGS))
    result = engine.self_test()
    assert result.probe_difference is None
    assert result.return_difference == 0.0
    engine.close()


def test_end_token_ends_the_answer_and_is_counted(parents: Parents) -> None:
    _always_ends(parents.folder / "a")
    engine = open_engine(parents.setup("a", SETTINGS))
    (answer,) = engine.generate([GenerateRequest((5, 6, 7), 9)])
    assert (answer.text, answer.n_tokens, answer.truncated) == ("", 1, False)
    engine.close()


def test_batches_of_any_size_give_the_same_scores(parents: Parents) -> None:
    requests = [
        LoglikelihoodRequest(tuple(range(9, 10 + n)), tuple(range(40, 41 + n % 5)))
        for n in range(30)
    ]
    prompts = [GenerateRequest(request.context, 5) for request in requests]
    setup = parents.setup("a", SETTINGS)
    wide = open_engine(setup)
    narrow = open_engine(replace(setup, engine=replace(SETTINGS, max_num_seqs=4)))
    many = [score.logprob for score in wide.loglikelihood(requests)]
    few = [score.logprob for score in narrow.loglikelihood(requests)]
    assert few == pytest.approx(many, abs=1e-4)
    assert narrow.generate(prompts) == wide.generate(prompts)


def test_what_a_plain_model_says_of_packed_weights_is_left_out(
    parents: Parents,
) -> None:
    plain = open_engine(parents.setup("a", SETTINGS))
    expected = Probe.take(plain)
    plain.close()
    leave_quantization_behind(parents.folder / "a")
    engine = open_engine(parents.setup("a", SETTINGS))
    assert Probe.take(engine).difference(expected) == 0.0
    engine.close()


def test_collapsed_model_gets_no_credit_for_being_greedy(parents: Parents) -> None:
    path = parents.folder / "a" / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"].zero_()
    save_file(tensors, path, metadata={"format": "pt"})
    engine = open_engine(parents.setup("a", SETTINGS))
    scores = engine.loglikelihood(
        [LoglikelihoodRequest((5, 6), (token,)) for token in range(50)]
    )
    assert not any(score.is_greedy for score in scores)
    engine.close()


def test_finite_weights_with_overflowing_activations_blame_the_candidate(
    parents: Parents,
) -> None:
    path = parents.folder / "a" / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] *= 3e38 / tensors["lm_head.weight"].abs().max()
    save_file(tensors, path, metadata={"format": "pt"})
    engine = open_engine(parents.setup("a", SETTINGS))
    with pytest.raises(CandidateError, match="overflow"):
        engine.loglikelihood([LoglikelihoodRequest((5, 6), (7,))])
    with pytest.raises(CandidateError, match="overflow"):
        engine.generate([GenerateRequest((5, 6), 3)])
    engine.close()


def test_weights_beyond_the_engines_range_blame_the_candidate(
    parents: Parents,
) -> None:
    settings = replace(SETTINGS, dtype="float16")
    engine = open_engine(parents.setup("a", settings))
    with pytest.raises(CandidateError, match="float16"):
        engine.swap(parents.blend(1e6))
    engine.close()


def test_unknown_option_is_named(parents: Parents) -> None:
    settings = replace(SETTINGS, options={"flash_speed": 3})
    with pytest.raises(SpecError, match=r"engine\.options\.flash_speed"):
        open_engine(parents.setup("a", settings))


def test_unknown_kind_is_named(parents: Parents) -> None:
    with pytest.raises(SpecError, match="quantum"):
        open_engine(parents.setup("a", replace(SETTINGS, kind="quantum")))


def test_broken_frame_is_a_checkpoint_error(parents: Parents) -> None:
    setup = parents.setup("a", SETTINGS)
    (parents.folder / "a" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="config"):
        HfEngine(setup)


def _always_ends(folder: Path) -> None:
    """Make the end token the likeliest everywhere: one strong direction feeds it."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"][:, 0] = 50.0
    tensors["model.norm.weight"].fill_(1.0)
    tensors["lm_head.weight"] = torch.zeros_like(tensors["lm_head.weight"])
    tensors["lm_head.weight"][2, 0] = 1.0
    save_file(tensors, path, metadata={"format": "pt"})
