"""Stacks in the transformers engine, against models built from the same layers."""

import pytest

from evomerge.scoring.engines import open_engine
from evomerge.testing.stack_contract import StackContract, StackSwapContract

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Hf:
    kind = "hf"
    open_engine = staticmethod(open_engine)


class TestLlama(Hf, StackContract):
    pass


class TestTiedQwen2(Hf, StackSwapContract):
    family = "qwen2"
    profile = "pool"


class TestMixedGemma3(Hf, StackSwapContract):
    family = "gemma3_text"


@pytest.mark.long
class TestTiedQwen2ForLong(Hf, StackContract):
    family = "qwen2"
    profile = "pool"


@pytest.mark.long
class TestMixedGemma3ForLong(Hf, StackContract):
    family = "gemma3_text"


@pytest.mark.long
class TestMistral(Hf, StackContract):
    family = "mistral"


@pytest.mark.long
class TestQwen3(Hf, StackContract):
    family = "qwen3"


@pytest.mark.long
class TestMixedGemma2(Hf, StackContract):
    family = "gemma2"


@pytest.mark.long
class TestPhi3(Hf, StackContract):
    family = "phi3"
