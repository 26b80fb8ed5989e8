"""Nothing of one candidate is remembered when the next one is scored.

Recurrent layers keep a state, attention a cache, and engines keep prefixes: a candidate
that met the state of the last one would score otherwise than in an engine of its own.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from architectures.built import CAUSAL, build
from architectures.served import Answers, write_words

from evomerge.checkpoints import read_model
from evomerge.core.work import EngineSettings, WorkerSetup
from evomerge.scoring.engine import Engine
from evomerge.scoring.engines import open_engine
from evomerge.scoring.self_test import Probe, whole

pytestmark = pytest.mark.timeout(300)


def hybrids(
    folder: Path, family: str, kind: str, **changes: int
) -> dict[str, WorkerSetup]:
    """Write two models and describe an engine of each."""
    build(folder, CAUSAL, family, **changes)
    prints = {}
    for name in "ab":
        write_words(folder / name)
        prints[name] = read_model(folder / name).fingerprint
    setup = WorkerSetup(
        engine=EngineSettings(kind, max_model_len=64, kv_cache_bytes=16 << 20),
        tasks=(),
        sources={prints[name]: str(folder / name) for name in "ab"},
        frame=prints["a"],
        probe=None,
        cache_dir=str(folder / "cache"),
    )
    return {name: replace(setup, frame=prints[name]) for name in "ab"}


def asked(engine: Engine) -> tuple[Probe, Answers]:
    """Ask everything twice, so that prefixes are met again."""
    first = Probe.take(engine), Answers.of_engine(engine)
    second = Probe.take(engine), Answers.of_engine(engine)
    assert second[1].texts == first[1].texts
    return second


def check_nothing_is_remembered(setups: dict[str, WorkerSetup]) -> None:
    fresh = {}
    for name, setup in setups.items():
        engine = open_engine(setup)
        fresh[name] = asked(engine)
        engine.close()
    assert fresh["a"] != fresh["b"]
    engine = open_engine(setups["a"])
    try:
        for name in "aba":
            engine.swap(whole(setups["a"], setups[name].frame))
            assert asked(engine) == fresh[name]
    finally:
        engine.close()


@pytest.mark.parametrize("family", ["qwen3_next", "falcon_h1", "lfm2"])
def test_state_of_a_candidate_never_reaches_the_next(
    tmp_path: Path, family: str
) -> None:
    check_nothing_is_remembered(hybrids(tmp_path, family, "hf"))


@pytest.mark.engine
@pytest.mark.long
def test_state_and_prefixes_never_reach_the_next_in_vllm(tmp_path: Path) -> None:
    # Its attention on a CPU needs heads of 32; its prefix cache is on.
    check_nothing_is_remembered(hybrids(tmp_path, "falcon_h1", "vllm", head_dim=32))
