"""Ray's side of a worker: its place, how it is made and killed, and how it died."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from evomerge.cluster.watch import Machine, Seen
from evomerge.core.trial import Blame, Cause, Failure
from evomerge.core.work import Node

WORKER_BYTES = 3 * 2**30  # on a CPU: about 2 GiB of libraries, and a small model

# Set before vLLM or torch is imported in a worker.
WORKER_ENV = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TQDM_DISABLE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
}
_NODE_LABEL = "ray.io/node-id"


@dataclass(frozen=True, slots=True)
class Share:
    """What each worker reserves of its node."""

    cpus: float
    gpus: float

    def fits(self, machine: Machine) -> bool:
        """Tell whether a node that is free of others could carry a worker."""
        return machine.cpus >= self.cpus and machine.gpus >= self.gpus

    def number_on(self, machine: Machine) -> int:
        """Return how many workers a node carries: by GPUs, or by cores and memory."""
        if not self.fits(machine):
            return 0
        if self.gpus:
            return int(machine.gpus / self.gpus + 1e-9)
        by_cores = int(machine.cpus / self.cpus) if self.cpus else 1
        return max(1, min(by_cores, int(machine.memory // WORKER_BYTES)))

    @property
    def words(self) -> str:
        """Say what a worker that is not placed waits for."""
        if self.gpus:
            return "a GPU" if self.gpus <= 1 else f"{self.gpus:g} GPUs"
        return "a core" if self.cpus <= 1 else f"{self.cpus:g} cores"


def look() -> Seen:
    """Return the nodes that are alive, and where this driver's actors are."""
    import ray
    from ray._private import state

    machines = {}
    for found in ray.nodes():
        if found["Alive"]:
            node = Node(
                found["NodeID"],
                found["NodeManagerHostname"],
                found["NodeManagerAddress"],
            )
            has: Mapping[str, float] = found["Resources"]
            machines[node.id] = Machine(
                node, has.get("CPU", 0.0), has.get("GPU", 0.0), has.get("memory", 0.0)
            )
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    places = {
        actor: about["Address"]["NodeID"]
        for actor, about in state.actors(job_id=job).items()
        if about["Address"]["IPAddress"]  # before, it is the node that is asked
    }
    return Seen(machines, places)


def make(
    name: str, share: Share, env: Mapping[str, str], aside: Collection[str]
) -> Any:
    """Make a worker's actor; it waits for a node that has room and is not set aside."""
    import ray

    from evomerge.cluster.worker import Worker

    # Python's operator for what is not in a list is also that of Ray's selectors.
    not_there = {_NODE_LABEL: f"!in({','.join(aside)})"} if aside else None
    return (
        ray.remote(Worker)
        .options(
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            max_restarts=0,
            max_task_retries=0,
            label_selector=not_there,
            runtime_env={"env_vars": {**WORKER_ENV, **env}},
        )
        .remote(name)
    )


def kill(actor: Any) -> None:
    """End an actor's process; it may be dead already, or Ray itself."""
    import ray

    with suppress(Exception):
        ray.kill(actor, no_restart=True)


def own_address() -> str:
    """Return the address at which workers reach this process."""
    import ray

    return str(ray.util.get_node_ip_address())


def id_of(actor: Any) -> str:
    """Return the id by which an actor is looked at."""
    found: str = actor._actor_id.hex()
    return found


# What Ray's account of a death means, first match first.
_DEATHS: Sequence[tuple[str, str]] = (
    ("killed by `ray.kill`", "its actor was killed by hand"),
    ("No module named 'evomerge", "its node has no evomerge, or another one"),
    ("exit code", "its process ended by itself"),
    ("its node has died", "its machine was lost"),
    ("node was terminated", "its machine was lost"),
)
_KILLED = "its process was killed, possibly for memory, or crashed"


def failure_of(name: str, error: BaseException) -> Failure:
    """Say how a worker died; Ray's own account follows in further lines."""
    from ray.exceptions import ActorDiedError, OutOfMemoryError

    account = str(error).strip()
    if isinstance(error, OutOfMemoryError):
        cause, how = Cause.OUT_OF_MEMORY, "it was killed, for memory ran out"
    elif isinstance(error, ActorDiedError):
        fits = (how for sign, how in _DEATHS if sign in account)
        cause, how = Cause.WORKER_LOST, next(fits, _KILLED)
    else:
        head = account.partition("\n")[0]
        cause, how = Cause.WORKER_LOST, head or type(error).__name__
    return failed(name, how, cause, account)


def failed(
    name: str, how: str, cause: Cause = Cause.WORKER_LOST, account: str = ""
) -> Failure:
    """Return a failure of the machine's, worded as the loss of a worker."""
    message = f"Worker {name} was lost: {how}.\n{account}".rstrip()
    return Failure(cause, Blame.MACHINE, message)


def is_foreign(error: BaseException) -> bool:
    """Tell whether a node could not even make or ask a worker of this evomerge."""
    from ray.exceptions import ActorDiedError, RayTaskError

    words = str(error)
    return isinstance(error, RayTaskError) or (
        isinstance(error, ActorDiedError)
        and any(sign in words for sign in ("creation task", "No module named"))
    )
