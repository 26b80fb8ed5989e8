"""Stacks in a living vLLM engine, against models built from the same layers.

Each class starts vLLM twice: once cold for the self-test, once to stay.
"""

import pytest

from evomerge.testing.stack_contract import StackContract

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


class TestLlama(StackContract):
    kind = "vllm"


class TestMixedGemma3InAPool(StackContract):
    kind = "vllm"
    family = "gemma3_text"
    profile = "pool"


@pytest.mark.long
class TestLlamaForLong(StackContract):
    kind = "vllm"
    n_drawn = 100


@pytest.mark.long
class TestTiedQwen2InPlace(StackContract):
    kind = "vllm"
    family = "qwen2"
    in_place = True


@pytest.mark.long
class TestTiedQwen2InAPool(StackContract):
    kind = "vllm"
    family = "qwen2"
    profile = "pool"


@pytest.mark.long
class TestMistral(StackContract):
    kind = "vllm"
    family = "mistral"


@pytest.mark.long
class TestQwen3(StackContract):
    kind = "vllm"
    family = "qwen3"


@pytest.mark.long
class TestMixedGemma2(StackContract):
    kind = "vllm"
    family = "gemma2"


@pytest.mark.long
class TestMixedGemma3InPlace(StackContract):
    kind = "vllm"
    family = "gemma3_text"
    in_place = True


@pytest.mark.long
class TestPhi3(StackContract):
    kind = "vllm"
    family = "phi3"
