from typing import Any

import pytest

from evomerge.specs.completing.engine_sizes import EngineSize, StackFacts, choose_room
from evomerge.specs.schema.study import EngineSpec

DEEP = StackFacts(depth=6, in_order=False, distinct=8, layer_bytes=100)
MERGED = StackFacts(depth=6, in_order=False, distinct=None)
PLAIN = StackFacts(depth=4, in_order=True, distinct=None)


def test_frames_own_stack_needs_no_slots() -> None:
    assert choose_room(PLAIN) == EngineSize("weights")


def test_whole_layers_that_fit_are_pooled_with_a_slot_each() -> None:
    assert choose_room(DEEP) == EngineSize("pool", 8)
    assert choose_room(DEEP, pool_bytes=800) == EngineSize("pool", 8)


def test_layers_that_do_not_fit_take_turns() -> None:
    assert choose_room(DEEP, pool_bytes=799) == EngineSize("slots", 6)


def test_layers_merged_for_each_candidate_take_turns() -> None:
    assert choose_room(MERGED) == EngineSize("slots", 6)


def test_pool_of_few_layers_has_room_for_repeats() -> None:
    facts = StackFacts(depth=9, in_order=False, distinct=4)
    assert choose_room(facts) == EngineSize("pool", 9)


def test_every_kind_of_layer_has_its_own_slots() -> None:
    facts = StackFacts(
        6,
        in_order=False,
        distinct=8,
        depth_kinds={"sliding_attention": 5, "full_attention": 3},
        distinct_kinds={"sliding_attention": 6, "full_attention": 2},
    )
    pool = {"sliding_attention": 6, "full_attention": 3}
    assert choose_room(facts).slot_kinds == pool
    assert choose_room(facts, profile="slots").slot_kinds == facts.depth_kinds


@pytest.mark.parametrize(
    ("facts", "profile", "slots", "says"),
    [
        (DEEP, "weights", None, "other stacks"),
        (MERGED, "pool", None, "merges layers"),
        (DEEP, "slots", 5, "up to 6 layers, more than 5 slots"),
        (DEEP, "fast", None, "auto or one of"),
    ],
)
def test_profile_that_cannot_run_the_space_is_refused_with_the_reason(
    facts: StackFacts, profile: str, slots: int | None, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        choose_room(facts, profile=profile, slots=slots)


@pytest.mark.parametrize("gpus", ["auto", 0, 0.5, 1])
def test_an_engine_reserves_a_share_of_a_gpu_or_one(gpus: Any) -> None:
    assert EngineSpec(kind="hf", gpus=gpus).gpus == gpus


@pytest.mark.parametrize(
    ("kind", "gpus", "says"),
    [
        ("vllm", 1.5, "a share below 1 or a whole number, got 1.5"),
        ("hf", 2, "expected at most 1 with hf, got 2: only vllm"),
        ("vllm", -1, "greater than or equal to 0"),
        ("vllm", "all", "'auto'"),
    ],
)
def test_gpus_that_no_engine_can_use_are_refused(
    kind: str, gpus: Any, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        EngineSpec.model_validate({"kind": kind, "gpus": gpus})
