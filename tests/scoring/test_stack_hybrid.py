"""Stacks of layers of hybrids: each equals the folder of its layers, loaded anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from architectures.built import KINDS, build
from architectures.served import write_words

from evomerge.checkpoints import read_model
from evomerge.core.work import EngineSettings, WorkerSetup
from evomerge.errors import SelfTestError, SpecError
from evomerge.scoring.engines import open_engine

pytestmark = pytest.mark.timeout(300)


def parents(folder: Path, kind: str, family: str) -> WorkerSetup:
    """Write two models and describe an engine with more slots than they have layers."""
    build(folder, KINDS[kind], family)
    prints = {}
    for name in "ab":
        write_words(folder / name)
        prints[name] = read_model(folder / name).fingerprint
    return WorkerSetup(
        engine=EngineSettings("hf", max_model_len=64, profile="slots", slots=6),
        tasks=(),
        sources={prints[name]: str(folder / name) for name in "ab"},
        frame=prints["a"],
        probe=prints["b"],
        cache_dir=str(folder / "cache"),
    )


@pytest.mark.parametrize(
    ("kind", "family"),
    [
        ("image-text", "qwen3_5"),
        ("causal", "falcon_h1"),
        ("causal", "mamba"),
        ("causal", "llama4"),
        ("causal", "doge"),
        ("causal", "gemma4_unified_text"),
        ("causal", "inkling_text"),
    ],
)
def test_layers_repeated_and_reordered_answer_as_their_folder(
    tmp_path: Path, kind: str, family: str
) -> None:
    engine = open_engine(parents(tmp_path, kind, family))
    result = engine.self_test()
    assert (result.probe_difference, result.return_difference) == (0.0, 0.0)
    engine.close()


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("deepseek_v3", "one feed-forward block"),
        ("bloom", "list"),
        ("modernbert-decoder", "layers 0 and 2.* only one has 'attn_norm.weight'"),
        ("jamba", "by a pattern which of its layers are recurrent"),
        ("gemma3n_text", "an embedding with a part for each layer"),
        ("afmoe", "this family can only have such layers first. Use profile: weights"),
    ],
)
def test_layers_that_cannot_change_places_are_refused(
    tmp_path: Path, family: str, said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        open_engine(parents(tmp_path, "causal", family))


def test_the_self_test_says_that_a_norm_on_the_hidden_state_undoes_scales(
    tmp_path: Path,
) -> None:
    # The way in which answers grow is one that is right whichever layer is first.
    engine = open_engine(parents(tmp_path, "causal", "minimax"))
    with pytest.raises(SelfTestError, match="a norm stands on the hidden state itself"):
        engine.self_test()
    engine.close()


def test_vllm_refuses_stacks_that_were_not_proved_and_names_the_engine_that_runs_them(
    tmp_path: Path,
) -> None:
    setup = parents(tmp_path, "causal", "qwen3_next")
    with pytest.raises(SpecError, match=r"engine\.kind: hf"):
        open_engine(replace(setup, engine=replace(setup.engine, kind="vllm")))
