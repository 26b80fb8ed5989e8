"""Families that vLLM serves: swapped in, self-tested, and as transformers answers."""

import importlib
import importlib.util
from pathlib import Path

import pytest
from architectures.built import CAUSAL, KINDS
from architectures.by_vllm import outcome

from evomerge.scoring.vllm.startup import prepare_environment

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


def test_a_model_without_a_head_speaks_with_the_swapped_embedding(
    tmp_path: Path,
) -> None:
    assert outcome(CAUSAL, "gemma2", tmp_path) == "exact"


def test_a_model_that_sees_is_served_for_its_text(tmp_path: Path) -> None:
    assert outcome(KINDS["image-text"], "gemma3", tmp_path) == "exact"


def test_a_router_that_would_lose_its_bias_is_refused(tmp_path: Path) -> None:
    found = outcome(CAUSAL, "ernie4_5_moe", tmp_path)
    assert "leaves the correction bias of" in found
    assert found.startswith("refused:")


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "family", "expected"),
    [
        ("image-text", "mistral3", "exact"),
        ("image-text", "qwen3_vl", "exact"),
        ("image-text", "qwen3_5", "exact in bfloat16"),
        ("causal", "qwen3_next", "exact in bfloat16"),
        ("causal", "falcon_h1", "exact"),
    ],
)
def test_a_family_is_served(
    tmp_path: Path, kind: str, family: str, expected: str
) -> None:
    assert outcome(KINDS[kind], family, tmp_path) == expected


def test_what_vllm_has_no_class_for_is_said_by_name(tmp_path: Path) -> None:
    found = outcome(CAUSAL, "mpt", tmp_path)
    assert found.startswith("not served: Model architecture MptForCausalLM was")


@pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is not None, reason="it is installed"
)
def test_placeholders_for_torchvision_refuse_to_be_used_and_leave_nothing() -> None:
    prepare_environment()
    from evomerge.scoring.vllm.classes import placeholders

    with placeholders():
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional
    assert InterpolationMode.BICUBIC is InterpolationMode.NEAREST
    with pytest.raises(ModuleNotFoundError, match="so this engine serves text only"):
        functional.resize(None)
    with pytest.raises(ModuleNotFoundError, match="No module named 'torchvision'"):
        importlib.import_module("torchvision")
