"""Stacks in the transformers engine, against models built from the same layers."""

import pytest

from evomerge.testing.stack_contract import StackContract

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class TestLlama(StackContract):
    kind = "hf"


class TestTiedQwen2(StackContract):
    kind = "hf"
    family = "qwen2"
    profile = "pool"


class TestMixedGemma3(StackContract):
    kind = "hf"
    family = "gemma3_text"


@pytest.mark.long
class TestMistral(StackContract):
    kind = "hf"
    family = "mistral"


@pytest.mark.long
class TestQwen3(StackContract):
    kind = "hf"
    family = "qwen3"


@pytest.mark.long
class TestMixedGemma2(StackContract):
    kind = "hf"
    family = "gemma2"


@pytest.mark.long
class TestPhi3(StackContract):
    kind = "hf"
    family = "phi3"
