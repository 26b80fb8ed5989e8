"""A cluster to strike at: a head, a service's machine, two workers, a database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.machines.cluster import Cluster
from support.machines.drill import Drill, study
from support.machines.machine import Machine
from support.machines.service import Service
from support.postgres import Server, running
from support.real_study import write_real_study
from support.study_files import write_models


@dataclass
class Stand:
    """Where drills take place; each leaves it as it found it.

    Attributes:
        head: The machine of Ray's head.
        serving: The machine of the service, whose raylet has no cores to lend.
        workers: Two machines with one core each.
        measured: What took how long.
    """

    cluster: Cluster
    server: Server
    service: Service
    head: Machine
    serving: Machine
    workers: list[Machine]
    models: Path
    measured: list[tuple[str, float]] = field(default_factory=list)

    def begin(self, name: str, trials: int = 24, block_s: float = 0.2) -> Drill:
        """Submit a study; see ``drill.study``."""
        disturbed, calm = (study(self.models, name, s, trials) for s in (block_s, 0.0))
        return Drill(self.service, disturbed, calm)

    def begin_real(self, name: str, trials: int = 24, block_s: float = 0.3) -> Drill:
        """Submit a study that merges and scores real models; see ``real_study``."""
        folder = self.models / name
        folder.mkdir()
        write_real_study(folder, {"kind": "hf"}, trials, block_s)
        files = {
            f"tasks/{file.name}": file.read_bytes()
            for file in (folder / "tasks").iterdir()
        }
        disturbed, calm = (
            _placed(folder, name, file) for file in ("real.yaml", "calm.yaml")
        )
        return Drill(self.service, disturbed, calm, files)

    def took(self, what: str, seconds: float) -> None:
        """Note how long something took."""
        self.measured.append((what, seconds))


def _placed(folder: Path, name: str, file: str) -> dict[str, Any]:
    """Return a study file under another name, with the places of its models."""
    found = json.loads((folder / file).read_text())
    sources = {source: str(folder / source) for source in found["sources"]}
    return {**found, "name": name, "sources": sources}


@contextmanager
def stand(folder: Path) -> Iterator[Stand]:
    """Give a cluster with two worker machines and a service with one replica."""
    with ExitStack() as stack:
        server = stack.enter_context(running())
        cluster = stack.enter_context(Cluster())
        head, serving, *workers = map(cluster.machine, ("head", "serving", "w1", "w2"))
        cluster.start_head(head)
        for machine, n_cpus in ((serving, 0), *((worker, 1) for worker in workers)):
            cluster.join(machine, n_cpus)
        service = Service(cluster, serving, server.database())
        service.start_replica()
        models = write_models(folder / "models")
        yield Stand(cluster, server, service, head, serving, workers, models)
