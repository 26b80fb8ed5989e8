"""A selection of the architectures that ``make families`` goes through."""

from __future__ import annotations

from pathlib import Path

import pytest
from architectures.built import KINDS
from architectures.published import FORMS, examine_form
from architectures.table import examine

CHOSEN = {
    "causal": [
        *("qwen3_next", "qwen3_5_text", "lfm2", "gemma3n_text", "gemma4_text"),
        *("granitemoehybrid", "falcon_h1", "jamba", "bamba", "nemotron_h"),
        *("kimi_linear", "minimax", "apertus", "ernie4_5_moe", "mpt", "dbrx"),
        *("mamba2", "deepseek_v3", "glm4_moe", "bigbird_pegasus"),
    ],
    "image-text": ["gemma3", "qwen3_5", "mistral3", "llava", "qwen2_vl"],
    "encoder-decoder": ["t5", "bart", "t5gemma2", "fsmt"],
    "classification": ["qwen2", "bert", "funnel"],
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
    assert kind != "image-text" or "vision" in row.carried
    assert "classifier" not in row.carried


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Qwen3.5", "GLM-4.5", "DBRX", "LFM2 mixture"])
def test_a_family_in_its_published_form_keeps_types_and_further_parts(
    tmp_path: Path, name: str
) -> None:
    (form,) = (form for form in FORMS if form.name == name)
    found = examine_form(form, tmp_path)
    assert found.why == ""
    assert found.tensors > 10
    assert bool(form.predicts) == ("prediction" in found.carried)
    assert found.types.get("float32", 0) == {"GLM-4.5": 4, "LFM2 mixture": 2}.get(
        name, 0
    )
