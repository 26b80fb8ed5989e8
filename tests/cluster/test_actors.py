"""What workers reserve, how many of them a machine carries, and what they wait for."""

import pytest

from evomerge.cluster.actors import WORKER_BYTES, Share
from evomerge.cluster.watch import Machine
from evomerge.core.work import Node

NODE = Node("n", "host", "10.0.0.1")


@pytest.mark.parametrize(
    ("share", "cpus", "gpus", "n_workers"),
    [
        (Share(1, 1), 16, 4, 4),  # one per GPU
        (Share(1, 0.5), 16, 4, 8),
        (Share(1, 0.1), 16, 1, 10),
        (Share(1, 2), 16, 5, 2),  # several GPUs per engine, of one machine
        (Share(1, 4), 16, 2, 0),
        (Share(1, 1), 16, 0, 0),
        (Share(1, 0), 4, 0, 4),  # by cores
        (Share(2, 0), 5, 0, 2),
        (Share(1, 0), 64, 0, 10),  # by memory
        (Share(8, 0), 4, 0, 0),
        (Share(1, 0), 0, 0, 0),  # a coordinator's own node
    ],
)
def test_a_machine_carries_workers_by_gpus_or_by_cores_and_memory(
    share: Share, cpus: int, gpus: int, n_workers: int
) -> None:
    assert share.number_on(Machine(NODE, cpus, gpus, 10 * WORKER_BYTES)) == n_workers


def test_a_machine_with_little_memory_carries_one() -> None:
    assert Share(1, 0).number_on(Machine(NODE, 4, 0, WORKER_BYTES / 2)) == 1


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (Share(1, 1), "a GPU"),
        (Share(1, 0.5), "a GPU"),
        (Share(1, 2), "2 GPUs"),
        (Share(1, 0), "a core"),
        (Share(8, 0), "8 cores"),
    ],
)
def test_what_a_worker_waits_for_is_told_in_words(share: Share, words: str) -> None:
    assert share.words == words
