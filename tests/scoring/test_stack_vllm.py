"""Stacks in a living vLLM engine, against models built from the same layers.

Each class starts vLLM twice: once cold for the self-test, once to stay.
"""

from collections.abc import Sequence
from typing import Any

import pytest

from evomerge.errors import SelfTestError
from evomerge.scoring.engine import Engine
from evomerge.scoring.engines import open_engine
from evomerge.scoring.stacks.slots import SlotCache
from evomerge.scoring.vllm import layer_slots
from evomerge.testing.stack_contract import StackContract, StackSwapContract

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


class Vllm:
    kind = "vllm"
    open_engine = staticmethod(open_engine)


class TestLlama(Vllm, StackContract):
    def test_self_test_sees_scales_of_a_part_of_the_hidden_state(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(layer_slots, "_STREAM", ("hidden_states",))
        with pytest.raises(SelfTestError, match="scaled there and back differs"):
            engine.self_test()

    def test_self_test_sees_layers_that_share_a_cache(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def share(shelf: SlotCache, _: Any, contents: Sequence[str], kind: str) -> int:
            return shelf._held.index(contents[1])

        monkeypatch.setattr(SlotCache, "_borrow", share)
        with pytest.raises(SelfTestError, match="a stack of layers, swapped in"):
            engine.self_test()


class TestMixedGemma3InAPool(Vllm, StackSwapContract):
    family = "gemma3_text"
    profile = "pool"


@pytest.mark.long
class TestMixedGemma3InAPoolForLong(Vllm, StackContract):
    family = "gemma3_text"
    profile = "pool"


@pytest.mark.long
class TestLlamaForLong(Vllm, StackContract):
    n_drawn = 100


@pytest.mark.long
class TestTiedQwen2InPlace(Vllm, StackContract):
    family = "qwen2"
    in_place = True


@pytest.mark.long
class TestTiedQwen2InAPool(Vllm, StackContract):
    family = "qwen2"
    profile = "pool"


@pytest.mark.long
class TestMistral(Vllm, StackContract):
    family = "mistral"


@pytest.mark.long
class TestQwen3(Vllm, StackContract):
    family = "qwen3"


@pytest.mark.long
class TestMixedGemma2(Vllm, StackContract):
    family = "gemma2"
    # Fused attention leaves out the cap on the scores of attention.
    attention = "eager"


@pytest.mark.long
class TestMixedGemma3InPlace(Vllm, StackContract):
    family = "gemma3_text"
    in_place = True


@pytest.mark.long
class TestPhi3(Vllm, StackContract):
    family = "phi3"
