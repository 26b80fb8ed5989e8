"""How many workers there are to be when some are drained, and where none begins."""

import pytest

from evomerge.cluster.actors import Share
from evomerge.cluster.room import Room
from evomerge.cluster.watch import Machine
from evomerge.core.work import Node, Wishes

MACHINES = {
    key: Machine(Node(key, f"host-{key}", "10.0.0.1"), 8, gpus, 2**36)
    for key, gpus in (("a", 2), ("b", 1), ("small", 0))
}


def room(drained: dict[str, str], aside: tuple[str, ...] = ()) -> Room:
    return Room(MACHINES, Share(1, 1), aside, Wishes(drained=drained))


@pytest.mark.parametrize(
    ("drained", "aside", "follows", "of_two"),
    [
        ({}, (), 3, 2),
        ({"w0": "a"}, (), 2, 1),
        ({"w0": "a", "w1": "a"}, (), 1, 0),
        ({"w0": "gone"}, (), 3, 2),
        ({"w0": "b"}, ("b",), 2, 2),
        ({"w0": "a", "w1": "a", "w2": "b"}, (), 0, 0),
        ({}, ("a", "b"), 1, 2),
    ],
)
def test_a_study_does_with_one_fewer_for_each_that_is_drained(
    drained: dict[str, str], aside: tuple[str, ...], follows: int, of_two: int
) -> None:
    found = room(drained, aside)
    assert (found.wanted(None), found.wanted(2)) == (follows, of_two)


def test_the_place_of_a_drained_worker_is_not_taken_by_another() -> None:
    assert room({"w0": "b"}).closed([]) == ["b"]
    assert room({"w0": "a"}).closed([]) == []
    assert room({"w0": "a"}).closed(["a"]) == ["a"]
    assert room({"w0": "a"}, ("b",)).closed(["a"]) == ["b", "a"]
