"""Which slot holds which layer: laws of the plan, without any engine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import CandidateError
from evomerge.scoring.stacks.slots import Place, SlotCache

KINDS = ("full", "full", "sliding", "full", "sliding")
Stack = list[str]


def _kind(key: str) -> str:
    return "sliding" if key in "xyz" else "full"


def _load(shelf: SlotCache, stack: Stack) -> int:
    """Bring a stack in, as an engine does; return how many slots were written."""
    missing = shelf.missing(stack)
    slots = shelf.choose(stack, {place: _kind(stack[place]) for place in missing})
    shelf.forget(list(slots.values()))
    for place, slot in slots.items():
        shelf.hold(slot, stack[place])
    return len(slots)


def _stacks() -> st.SearchStrategy[Stack]:
    full = st.lists(st.sampled_from("abcde"), max_size=3)
    sliding = st.lists(st.sampled_from("xyz"), max_size=2)
    both = st.tuples(full, sliding).map(lambda two: two[0] + two[1])
    return both.filter(bool).flatmap(st.permutations)


@given(st.lists(_stacks(), min_size=1, max_size=8))
def test_every_place_runs_its_layer_with_a_cache_of_its_own_and_of_its_kind(
    stacks: list[Stack],
) -> None:
    shelf = SlotCache(KINDS)
    content: dict[int, str] = {}
    for stack in stacks:
        missing = shelf.missing(stack)
        assert {stack[p] for p in missing} == set(stack) - set(content.values())
        slots = shelf.choose(stack, {p: _kind(stack[p]) for p in missing})
        shelf.forget(list(slots.values()))
        for place, slot in slots.items():
            shelf.hold(slot, stack[place])
            content[slot] = stack[place]
        places = shelf.arrange(stack, [1.0] * len(stack))
        assert [content[place.slot] for place in places] == stack
        caches = [place.cache for place in places]
        assert len(set(caches)) == len(caches)
        assert [KINDS[c] for c in caches] == [_kind(key) for key in stack]


@given(_stacks(), _stacks())
def test_no_more_is_written_than_is_new(first: Stack, second: Stack) -> None:
    shelf = SlotCache(KINDS)
    _load(shelf, first)
    assert _load(shelf, second) == len(set(second) - set(first))


def test_layers_without_repeats_keep_their_own_caches() -> None:
    shelf = SlotCache(KINDS)
    _load(shelf, ["a", "x", "b"])
    places = shelf.arrange(["b", "x", "a"], [1.0, 0.5, 1.0])
    assert places == (Place(1, 1), Place(2, 2, 0.5), Place(0, 0))


def test_longest_unused_layer_is_written_over() -> None:
    shelf = SlotCache(("full",) * 3)
    for stack in (["a", "b", "c"], ["b"], ["a"]):
        _load(shelf, stack)
        shelf.arrange(stack, [1.0] * len(stack))
    _load(shelf, ["d"])
    assert shelf.missing(["a", "b", "c", "d"]) == [2]


def test_overwritten_slot_is_not_known_until_it_is_written() -> None:
    shelf = SlotCache(("full",) * 2)
    _load(shelf, ["a", "b"])
    shelf.forget([0])
    assert shelf.missing(["a", "b"]) == [0]


@pytest.mark.parametrize("stack", [["x", "y", "z"], ["a", "b", "c", "d"]])
def test_more_layers_of_a_kind_than_slots_are_refused_with_the_numbers(
    stack: Stack,
) -> None:
    with pytest.raises(CandidateError, match=r"has [23] slots .* and 5 in all"):
        _load(SlotCache(KINDS), stack)


def test_repeats_beyond_the_caches_of_a_kind_are_refused() -> None:
    shelf = SlotCache(KINDS)
    stack = ["x", "x", "x"]
    _load(shelf, stack)
    with pytest.raises(CandidateError, match="2 slots for layers of the kind"):
        shelf.arrange(stack, [1.0] * 3)
