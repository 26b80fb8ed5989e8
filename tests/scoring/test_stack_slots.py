"""How many slots an engine gets, and which frames may have them."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from evomerge.core.work import WorkerSetup
from evomerge.errors import SpecError
from evomerge.scoring.stacks.self_test import trial_stack, with_silence
from evomerge.scoring.stacks.slots import home, slot_kinds
from evomerge.testing.families import family_config, family_model, save_family
from evomerge.testing.stacked import N_LAYERS, Family

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

_S, _F = "sliding_attention", "full_attention"


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., WorkerSetup]:
    @cache
    def family(name: str) -> Family:
        return Family(tmp_path_factory.mktemp(name), name).write()

    def make(name: str = "llama", **engine: Any) -> WorkerSetup:
        return family(name).setup("hf", **engine)

    return make


def test_slots_of_one_kind_are_counted(setup: Callable[..., WorkerSetup]) -> None:
    assert slot_kinds(setup(slots=7)) == (_F,) * 7
    assert slot_kinds(setup(slots=None)) == (_F,) * N_LAYERS


def test_every_kind_of_the_frame_gets_slots_after_its_own_layers(
    setup: Callable[..., WorkerSetup],
) -> None:
    assert slot_kinds(setup("gemma3_text", slots=None)) == (_S, _S, _F, _S)
    six = slot_kinds(setup("gemma3_text", slots=6))
    assert six[:4] == (_S, _S, _F, _S)
    assert Counter(six) == {_S: 6, _F: 6}
    told = {_S: 5, _F: 1}
    kinds = slot_kinds(setup("gemma3_text", slots=6, slot_kinds=told))
    assert kinds == (_S, _S, _F, _S, _S, _S)


def test_kind_that_the_frame_lacks_is_named(
    setup: Callable[..., WorkerSetup],
) -> None:
    with pytest.raises(SpecError, match=r"slot_kinds\.sliding.*full_attention"):
        slot_kinds(setup(slot_kinds={_S: 2}))


def test_frame_without_proof_is_refused_by_vllm_with_the_reason(
    setup: Callable[..., WorkerSetup], tmp_path: Path
) -> None:
    save_family(tmp_path / "m", family_model(family_config("mixtral")))
    engine = replace(setup().engine, kind="vllm")
    sources = {"m": str(tmp_path / "m")}
    other = replace(setup(), sources=sources, frame="m", engine=engine)
    with pytest.raises(SpecError, match=r"proved exact for .*not for MixtralFor"):
        slot_kinds(other)


def test_engine_with_fewer_slots_starts_with_the_frames_first_layers(
    setup: Callable[..., WorkerSetup],
) -> None:
    held = home(setup(slots=3))
    assert [slot.layers for slot in held.slots] == [(("frame", i),) for i in range(3)]
    mixed = home(setup("gemma3_text", slots=6, slot_kinds={_S: 1, _F: 1}))
    assert [slot.layers for slot in mixed.slots] == [(("frame", 0),), (("frame", 2),)]


@pytest.mark.parametrize("n", [1, 2, 3, 9])
@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_trial_stack_fits_any_engine_with_a_layer_of_zeros(
    setup: Callable[..., WorkerSetup], name: str, n: int
) -> None:
    here = setup(name, slots=n)
    stack = trial_stack(here)
    tried = with_silence(stack, 2.0, 0.5) if n > 1 else stack
    room = Counter(slot_kinds(here))
    kinds = {"llama": [_F] * 4, "gemma3_text": [_S, _S, _F, _S]}[name]
    used = Counter(kinds[slot.layers[0][1]] for slot in tried.slots)
    assert used <= room
    assert n < 9 or len(set(stack.slots)) < len(stack.slots)
