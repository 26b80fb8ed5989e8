"""Faults of every kind that one machine can make, against jobs of a real queue.

    PYTHONPATH=tests python benchmarks/fault_sweep.py [--minutes 3] [--on-ray]
    PYTHONPATH=tests python benchmarks/fault_sweep.py --table

Replicas (supervisors in processes of their own) run studies of the simulated engine on
a PostgreSQL of their own, while coordinators, replicas, the server, clocks, leases and
the disk are struck at random. Then every study must have ended as an undisturbed one,
``db check`` must find nothing, and no job may have been claimed twice. Each call adds
to the results; ``--table`` prints all of them. As root on Linux the replicas' disk is
a small one that can be full; elsewhere that kind is left out.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
from faults.audit import audit
from faults.kinds import IN_PROCESS, ON_RAY
from faults.stage import Stage
from faults.sweep import Sweep
from support.postgres import Server, running
from support.study_files import write_models

RESULTS = Path("fault_sweep.jsonl")
SPOOL_BYTES = 24 << 20
N_REPLICAS = 2
_IN_NAMESPACE = "EVOMERGE_SWEEP_IN_NAMESPACE"


def sweep(asked: argparse.Namespace) -> dict[str, object]:
    """Strike as was asked; return what came of it."""
    began = time.monotonic()
    logging.disable(logging.ERROR)  # what undisturbed studies say of their candidates
    with ExitStack() as stack:
        place = tempfile.TemporaryDirectory(prefix="evomerge-sweep-")
        folder = Path(stack.enter_context(place))
        server = stack.enter_context(running())
        spool = stack.enter_context(_spool(folder))
        stage = _stage(folder, server, spool, asked.seed)
        stack.callback(stage.close)
        if asked.on_ray:
            stage.options = ("--address", stack.enter_context(_ray(folder)))
            stage.workers = 1
        for _ in range(N_REPLICAS):
            stage.start_replica()
        rng = np.random.default_rng(asked.seed)
        all_kinds = ON_RAY if asked.on_ray else IN_PROCESS
        kinds = [kind for kind in all_kinds if asked.only in kind.__name__]
        swept = Sweep(stage, kinds, rng, n_running=asked.studies)
        swept.run(60 * asked.minutes)
        found = audit(stage)
    strikes = [(s.kind, s.took_s) for s in swept.strikes]
    return {
        "seed": asked.seed,
        "on_ray": asked.on_ray,
        "seconds": time.monotonic() - began,
        "strikes": strikes,
        "hung": len(swept.hung),
        "refused": stage.refused,
        **asdict(found),
    }


def _stage(folder: Path, server: Server, spool: Path, seed: int) -> Stage:
    models = write_models(folder / "models")
    return Stage(folder, server, server.database(), models, spool, seed)


@contextmanager
def _spool(folder: Path) -> Iterator[Path]:
    """Give the replicas' disk: a small one of its own, where one may be mounted."""
    spool = folder / "spool"
    spool.mkdir(mode=0o700)
    is_mounted = bool(os.environ.get(_IN_NAMESPACE))
    if is_mounted:
        options = f"size={SPOOL_BYTES},mode=700"
        words = ["mount", "-t", "tmpfs", "-o", options, "spool", str(spool)]
        subprocess.run(words, check=True)
    try:
        yield spool
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(spool)], check=True)


@contextmanager
def _ray(folder: Path) -> Iterator[str]:
    """Start a Ray whose workers can be killed; give its address."""
    from evomerge.cluster.ray_connection import Placement, RayConnection

    keeper = RayConnection(
        Placement(run_dir=str(folder / "run"), n_workers=3, cpus=0.3)
    )
    keeper.connect()
    try:
        import ray

        yield ray.get_runtime_context().gcs_address
    finally:
        keeper.close()


def table(results: Sequence[dict[str, object]]) -> str:
    """Return what all sweeps came to, in Markdown."""
    by_kind = defaultdict[str, list[float | None]](list)
    for result in results:
        for kind, took_s in result["strikes"]:
            by_kind[kind].append(took_s)
        by_kind["poison candidate"] += result["poison_s"]
    lines = [
        "| fault | times | median s | 90 % within | longest | hung |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for kind, times in sorted(by_kind.items(), key=lambda item: -len(item[1])):
        known = sorted(t for t in times if t is not None)
        if known:
            high = known[min(len(known) - 1, int(0.9 * len(known)))]
            cells = [statistics.median(known), high, known[-1]]
            words = " | ".join(f"{cell:.1f}" for cell in cells)
        else:
            words = "- | - | -"
        lines.append(f"| {kind} | {len(times)} | {words} | {len(times) - len(known)} |")
    n_faults = sum(map(len, by_kind.values()))
    sums = {
        key: sum(
            value if isinstance(value := result[key], int) else len(value)
            for result in results
        )
        for key in (
            *("jobs", "trials", "items", "attempts"),
            *("lost", "doubled", "different", "twice", "broken", "hung", "refused"),
        )
    }
    minutes = sum(result["seconds"] for result in results) / 60
    said = ", ".join(f"{value} {key}" for key, value in sums.items())
    return "\n".join([*lines, "", f"{n_faults} faults in {minutes:.0f} min: {said}."])


def main() -> None:
    """Sweep, or print what all sweeps came to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--studies", type=int, default=3, help="at once")
    parser.add_argument("--only", default="", help="kinds with this in their names")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--on-ray", action="store_true")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if not asked.table:
        _enter_namespace()
        result = sweep(asked)
        with asked.results.open("a") as file:
            file.write(json.dumps(result) + "\n")
    lines = asked.results.read_text().splitlines()
    results = [json.loads(line) for line in lines]
    print(table(results))
    kinds_of_wrong = ("lost", "doubled", "different", "twice", "broken")
    for result in results:
        for key in kinds_of_wrong:
            for what in result[key]:
                print(f"{key}: {what}")
    sys.exit(any(result[key] for result in results for key in kinds_of_wrong))


def _enter_namespace() -> None:
    """Go on in a mount namespace of this process's own, where that is granted."""
    if os.environ.get(_IN_NAMESPACE) or os.geteuid() != 0:
        return
    probe = ["unshare", "--mount", "true"]
    try:
        is_granted = subprocess.run(probe, check=False, capture_output=True)
    except FileNotFoundError:
        return
    if is_granted.returncode == 0:
        os.environ[_IN_NAMESPACE] = "yes"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])


if __name__ == "__main__":
    main()
