"""A selection of the architectures that ``make families`` goes through."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.testing.architecture_table import examine
from evomerge.testing.architectures import KINDS

CHOSEN = {
    "causal": [
        *("qwen3_next", "qwen3_5_text", "lfm2", "gemma3n_text", "gemma4_text"),
        *("granitemoehybrid", "falcon_h1", "jamba", "bamba", "nemotron_h"),
        *("kimi_linear", "minimax", "apertus", "ernie4_5_moe", "mpt", "dbrx"),
        *("mamba2", "deepseek_v3", "glm4_moe"),
    ],
    "image-text": ["gemma3", "qwen3_5", "mistral3", "llava", "qwen2_vl"],
    "classifier": ["qwen2"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "family"), [(k, family) for k, found in CHOSEN.items() for family in found]
)
def test_every_tensor_of_an_architecture_is_accounted_for(
    tmp_path: Path, kind: str, family: str
) -> None:
    row = examine(KINDS[kind], family, tmp_path)
    assert (row.state, row.why) == ("merges", "")
    assert row.tensors > 10
    beside = {"image-text": "vision", "classifier": "classifier"}
    assert beside.get(kind) in (None, *row.carried)
