"""Arguments of vLLM are known without loading it."""

import subprocess
import sys
from typing import Any

import pytest

from evomerge.specs.completing.engine_options import option_mistakes


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("enforce_eagr", True, "no such argument; did you mean 'enforce_eager'?"),
        ("warp_speed", 9, "no such argument."),
        ("enforce_eager", "yes", "expected true or false, got 'yes'"),
        ("max_num_seqs", 2.5, "expected a whole number, got 2.5"),
        ("max_num_seqs", True, "expected a whole number, got True"),
        ("gpu_memory_utilization", "half", "expected a number, got 'half'"),
        ("dtype", "flaot16", "got 'flaot16'; did you mean 'float16'?"),
        ("runner", "generrate", "did you mean 'generate'?"),
        ("worker_extension_cls", "a.B", "how evomerge reaches the weights"),
    ],
)
def test_what_vllm_would_refuse_is_told(name: str, value: Any, words: str) -> None:
    ((where, said),) = option_mistakes({name: value})
    assert where == name
    assert words in said


def test_what_vllm_takes_is_left_alone() -> None:
    given = {
        "enforce_eager": True,
        "max_num_seqs": 8,
        "gpu_memory_utilization": 1,
        "dtype": "bfloat16",
        "quantization": "anything",
        "hf_overrides": {"num_hidden_layers": 2},
        "max_model_len": None,
        "allowed_media_domains": ["here"],
        "kv_cache_dtype": "auto",
    }
    assert list(option_mistakes(given)) == []


def test_vllm_is_not_loaded_for_that() -> None:
    program = """
import sys
from evomerge.specs.completing.engine_options import option_mistakes
print(list(option_mistakes({"seeed": 1})), "vllm" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "did you mean 'seed'?" in done.stdout
    assert done.stdout.endswith("False\n")
