"""The actor that hands a study's folders to nodes that lack them, chunk by chunk.

It runs beside the coordinator, so it sees the coordinator's disks. What it answers
goes through Ray's object store, and is freed there when the node has written it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.cluster.goods import Parcel, Stock
from evomerge.cluster.on_node import CHUNK, Fetch

ANSWER_S = 120.0


class Courier:
    """Reads files of the parcels it was made with, and no others."""

    def __init__(self, parcels: Mapping[str, Parcel]) -> None:
        self._parcels = parcels

    def read(self, parcel: str, name: str, offset: int) -> bytes:
        """Return up to ``CHUNK`` bytes of a file."""
        found = self._parcels[parcel]
        if name not in found.files:
            raise KeyError(name)
        with (Path(found.folder) / name).open("rb") as file:
            file.seek(offset)
            return file.read(CHUNK)


def open_courier(stock: Stock) -> Any:
    """Make the actor on this process's own node, whatever is free there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    every = (*stock.tasks.values(), *stock.models.values())
    here = ray.get_runtime_context().get_node_id()
    return (
        ray.remote(Courier)
        .options(
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=2,
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        )
        .remote({parcel.name: parcel for parcel in every})
    )


def fetch_by(courier: Any) -> Fetch:
    """Return how a worker on another node asks a courier."""

    def fetch(parcel: str, name: str, offset: int) -> bytes:
        import ray

        part: bytes = ray.get(
            courier.read.remote(parcel, name, offset), timeout=ANSWER_S
        )
        return part

    return fetch
