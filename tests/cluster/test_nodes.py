"""Nodes on which workers fail: which are set aside, and when a study has none left."""

from collections.abc import Iterable

import pytest

from evomerge.cluster.nodes import ALIKE, Nodes
from evomerge.cluster.start import TRIES
from evomerge.core.trial import Blame, Cause, Failure
from evomerge.core.work import Node, NodeSetAside, WorkerLost
from evomerge.errors import WorkerError

A, B, C, D = (Node(key, f"host-{key}", f"10.0.0.{n}") for n, key in enumerate("abcd"))
EVERY = {"a", "b", "c", "d"}


def mistake(words: str = "no such model", kind: str = "CheckpointError") -> WorkerLost:
    failure = Failure(Cause.ENGINE, Blame.MACHINE, f"{words}\nand a traceback")
    return WorkerLost("w0", None, None, failure, fatal=True, futile=True, kind=kind)


def misfortune() -> WorkerLost:
    failure = Failure(Cause.OUT_OF_MEMORY, Blame.MACHINE, "memory ran out")
    return WorkerLost("w0", None, None, failure, kind="MemoryError")


def ended(events: Iterable[object]) -> WorkerLost | None:
    lost = [event for event in events if isinstance(event, WorkerLost)]
    (last,) = lost
    return last if last.fatal else None


def test_a_node_where_a_start_is_a_mistake_is_set_aside() -> None:
    nodes = Nodes()
    aside, lost = nodes.failed(A, mistake(), EVERY)
    assert aside == NodeSetAside(A, "no such model")
    assert isinstance(lost, WorkerLost)
    assert (lost.fatal, lost.futile) == (False, False)
    assert nodes.aside == ("a",)


def test_without_another_node_the_study_ends_with_the_words_as_they_are() -> None:
    found = mistake()
    lost = ended(Nodes().failed(A, found, {"a"}))
    assert lost == found


def test_when_all_nodes_have_failed_alike_the_study_ends_and_says_how_many() -> None:
    nodes = Nodes()
    assert ended(nodes.failed(A, mistake("one"), {"a", "b"})) is None
    lost = ended(nodes.failed(B, mistake("two"), {"a", "b"}))
    assert lost is not None
    assert lost.futile
    said = "2 nodes failed alike. On host-b (10.0.0.1): two"
    assert lost.failure.message.startswith(f"{said}\n")


def test_three_nodes_that_fail_alike_end_it_although_there_are_more() -> None:
    nodes = Nodes()
    ends = [ended(nodes.failed(node, mistake(), EVERY)) for node in (A, B, C)]
    assert [end is not None for end in ends] == [False, False, True]
    assert len(ends) == ALIKE


def test_they_do_not_once_a_worker_was_ready_somewhere() -> None:
    nodes = Nodes()
    nodes.succeeded(D)
    ends = [ended(nodes.failed(node, mistake(), EVERY)) for node in (A, B, C)]
    assert ends == [None, None, None]


def test_nodes_that_fail_each_in_its_own_way_leave_the_study_waiting() -> None:
    nodes = Nodes(patience_s=10)
    for node, kind in ((A, "versions"), (B, "CheckpointError")):
        assert ended(nodes.failed(node, mistake(kind, kind), {"a", "b"})) is None
    nodes.wait(100.0, {"a", "b"}, is_up=False)
    nodes.wait(109.0, {"a", "b"}, is_up=False)
    with pytest.raises(WorkerError, match="for 10 s") as caught:
        nodes.wait(110.0, {"a", "b"}, is_up=False)
    assert "host-a (10.0.0.0): versions; host-b (10.0.0.1): Check" in str(caught.value)


def test_a_node_that_comes_or_a_worker_that_is_up_ends_the_waiting() -> None:
    nodes = Nodes(patience_s=10)
    nodes.wait(0.0, set(), is_up=False)
    nodes.wait(9.0, {"c"}, is_up=False)
    nodes.wait(18.0, set(), is_up=False)
    nodes.wait(27.0, set(), is_up=True)
    nodes.wait(36.0, set(), is_up=False)
    nodes.wait(45.0, set(), is_up=False)
    with pytest.raises(WorkerError, match="ask for less per worker"):
        nodes.wait(46.0, set(), is_up=False)


def test_bad_luck_counts_by_node() -> None:
    nodes = Nodes()
    for node in (A, B) * (TRIES - 1):
        assert list(nodes.failed(node, misfortune(), EVERY)) == [misfortune()]
    aside, lost = nodes.failed(A, misfortune(), EVERY)
    assert aside == NodeSetAside(A, "memory ran out")
    assert lost == misfortune()


def test_bad_luck_is_over_when_a_worker_is_ready_there() -> None:
    nodes = Nodes()
    for _ in range(TRIES):
        for _ in range(TRIES - 1):
            assert ended(nodes.failed(A, misfortune(), {"a"})) is None
        nodes.succeeded(A)
    assert nodes.aside == ()


def test_bad_luck_on_the_only_node_ends_the_study_to_be_tried_again() -> None:
    nodes = Nodes()
    ends = [ended(nodes.failed(A, misfortune(), {"a"})) for _ in range(TRIES)]
    assert [end is not None for end in ends] == [False, False, True]
    assert ends[-1] is not None
    assert not ends[-1].futile


def test_starts_that_fail_nobody_knows_where_are_tried_three_times() -> None:
    nodes = Nodes()
    ends = [ended(nodes.failed(None, misfortune(), EVERY)) for _ in range(TRIES)]
    assert [end is not None for end in ends] == [False, False, True]
