"""What passes between the coordinator and its workers.

Everything here is plain and picklable; a pool may carry it across processes and
machines. A worker knows nothing of studies, strategies or databases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from evomerge.core.nearest import suggestion
from evomerge.core.policy import Policy
from evomerge.core.recipes.recipe import Recipe
from evomerge.core.scoring_protocol import BlockKey, Outcome, Share, TaskDescription
from evomerge.core.trial import Failure
from evomerge.errors import PluginError

NODE_SET_ASIDE, ROSTER = "node_set_aside", "workers"
"""Kinds of the events by which a study's record tells of its nodes and workers."""


ENGINES = ("vllm", "hf", "simulated")
"""Kinds of engines; other packages may have more."""


def engine_problem(kind: str) -> str | None:
    """Say what is wrong with a kind of engine; None if it can be loaded."""
    if kind in ENGINES:
        return None
    from evomerge import plugins

    try:
        if plugins.find("engines", kind) is not None:
            return None
    except PluginError as error:
        return str(error)
    names = list(dict.fromkeys([*ENGINES, *plugins.known("engines")]))
    *most, last = map(repr, names)
    near = suggestion(kind, names, "; ")
    return f"expected {', '.join(most)} or {last}, got {kind!r}{near}"


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How a worker runs models.

    Attributes:
        kind: One of ``ENGINES``, or another package's.
        dtype: Element type the engine computes in.
        max_model_len: Tokens of the longest sequence; None takes the model's own limit.
        max_num_seqs: Sequences the engine runs at once.
        kv_cache_bytes: Memory for the key-value cache; None lets the engine choose.
        options: Further arguments of the engine, passed on as they are.
        profile: ``weights`` runs the frame's layers in order; ``slots`` and ``pool``
            run any stack of layers. A pool has a slot for every layer that is ever
            asked for, so that nothing is written twice.
        slots: Layers the engine has room for; None takes the frame's own number.
        slot_kinds: Kind of attention to the number of slots for it, where layers
            differ; empty gives every kind of the frame ``slots``.
        gpus: GPUs it reserves, of one machine, perhaps a share of one; None is one
            where there are any.
        cpus: Cores it reserves.
        in_place: Keep weights as they are stored, on devices that would pack them: a
            stack is exchanged several times faster, and computes slower.
    """

    kind: str = "vllm"
    dtype: str = "float32"
    max_model_len: int | None = None
    max_num_seqs: int = 256
    kv_cache_bytes: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    profile: str = "weights"
    slots: int | None = None
    slot_kinds: Mapping[str, int] = field(default_factory=dict)
    in_place: bool = False
    gpus: float | None = None
    cpus: float = 1.0

    @property
    def stacks(self) -> bool:
        """Whether candidates may be any stack of layers."""
        return self.profile != "weights"


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """One task as a study wants it scored.

    Attributes:
        name: Its name in the study.
        task: Its name in lm-eval; ``simulated``, or a measure of its own.
        include_path: Folder of local task files; None for lm-eval's own library.
        num_fewshot: Examples before each question; None keeps the task's own number.
        apply_chat_template: Wrap prompts in the tokenizer's chat template.
        system_instruction: System message, if any.
        gen_kwargs: Generation settings laid over the task's own.
        max_gen_toks: Limit of generated tokens; None keeps the task's own.
        limit: Most items used over both roles; None takes all.
        search_fraction: Share of the items (by hash) that is searched on.
        search_items: Explicit ids or positions searched on; overrides the fraction.
        report_items: Explicit ids or positions held out for the report.
        search_split: Dataset split searched on; None takes the task's own.
        report_split: Dataset split held out for the report; None splits by hash.
        n_blocks: Most blocks the search items are scored in.
        block_items: Fewest items of a block, where there are so many.
        trust_code: The operator allows this task to run code.
        options: Settings of a task that is none of lm-eval's.
        asked: The metrics that the study's goals speak of.
        reference: What a measure compares with, if it compares.
        overrides: What a group lays over the task's own config.
        shares: The figures of groups that it counts into.
    """

    name: str
    task: str
    include_path: str | None = None
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    system_instruction: str | None = None
    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)
    max_gen_toks: int | None = None
    limit: int | None = None
    search_fraction: float = 0.5
    search_items: tuple[str, ...] | None = None
    report_items: tuple[str, ...] | None = None
    search_split: str | None = None
    report_split: str | None = None
    n_blocks: int = 1
    block_items: int = 1
    trust_code: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    shares: tuple[Share, ...] = ()
    asked: tuple[str, ...] = ()
    reference: Recipe | None = None


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """All a worker needs to come to life.

    Attributes:
        engine: How it runs models.
        tasks: What it scores.
        sources: Fingerprint to folder of every parent.
        frame: Fingerprint of the parent the engine starts from, or a stand-in.
        probe: Fingerprint of another parent, swapped in by the self-test, or a
            stand-in.
        cache_dir: Folder for what can be made again: probes, statistics.
        origins: Fingerprint to hub id and commit, of parents that came from a hub; a
            machine that lacks their folder fetches them.
        stand_ins: Name of a frame or probe that is no folder as it stands, to the
            recipe it is written by before the engine starts.
        policy: What the study may do there, for one of a stranger's; None for all.
    """

    engine: EngineSettings
    tasks: tuple[TaskSettings, ...]
    sources: Mapping[str, str]
    frame: str
    probe: str | None
    cache_dir: str
    origins: Mapping[str, str] = field(default_factory=dict)
    stand_ins: Mapping[str, Recipe] = field(default_factory=dict)
    policy: Policy | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """One worker's part of an attempt at a trial.

    Attributes:
        trial: Its number within the study.
        attempt: The fencing token; answers carry it back.
        recipe: What to swap in.
        blocks: What is to be scored, in order.
        timeout_s: Longest it may take, in seconds.
        calls: How many blocks the engine is asked at a time, in order; empty asks it
            all at once. Blocks are answered when their call is.
    """

    trial: int
    attempt: int
    recipe: Recipe
    blocks: tuple[BlockKey, ...]
    timeout_s: float
    calls: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker passed its self-test and describes its tasks.

    Attributes:
        worker: Its name, unique within the pool.
        tasks: What it will score, and how.
        facts: Plain facts for the record: device, versions, start-up seconds.
    """

    worker: str
    tasks: tuple[TaskDescription, ...]
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BlockScored:
    """The outcomes of one block, in the manifest's order.

    Attributes:
        seconds: The first block of a call has those of all of it.
    """

    worker: str
    trial: int
    attempt: int
    block: BlockKey
    outcomes: tuple[Outcome, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class AttemptDone:
    """Every block of the assignment was reported.

    Attributes:
        seconds: Time by part: ``materialise``, ``swap``, ``score``.
    """

    worker: str
    trial: int
    attempt: int
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """The attempt ended without its scores; the worker lives on."""

    worker: str
    trial: int
    attempt: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker died, with the attempt it was at, if any.

    Attributes:
        fatal: A new one would fail the same way, for example because its self-test
            refused, or too many in a row never became ready; the study must stop.
        futile: It would at any other time too: what the study asks for is at fault.
        kind: What sort of failure it was; losses of one kind are alike.
    """

    worker: str
    trial: int | None
    attempt: int | None
    failure: Failure
    fatal: bool = False
    futile: bool = False
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of a cluster, or a container that is one to it.

    Attributes:
        id: The cluster's name for it; another each time it joins.
        host: Its host name.
        ip: Its address in the cluster.
    """

    id: str
    host: str
    ip: str

    def __str__(self) -> str:
        """Return what a person finds it by."""
        return f"{self.host} ({self.ip})"


@dataclass(frozen=True, slots=True)
class NodeSetAside:
    """A node gets no more workers of this pool, and why; the others go on."""

    node: Node
    reason: str


@dataclass(frozen=True, slots=True)
class Roster:
    """How many workers there are, and how many there are to be.

    Attributes:
        wanted: As many as the limit and the cluster allow.
        up: Those that are ready.
        waits_for: What those lack that are not, such as ``a GPU``; None if they are
            only starting, or none is missing.
        n_aside: Nodes that were set aside.
    """

    wanted: int
    up: int
    waits_for: str | None = None
    n_aside: int = 0

    @property
    def missing(self) -> str:
        """Say which workers are missing and why; empty if none is."""
        parts = [f"waiting for {self.waits_for}"] if self.waits_for else []
        if self.n_aside:
            nodes = "1 node" if self.n_aside == 1 else f"{self.n_aside} nodes"
            parts.append(f"{nodes} set aside")
        if self.up < self.wanted:
            noun = "worker" if self.wanted == 1 else "workers"
            parts.insert(0, f"{self.up} of {self.wanted} {noun}")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class GpuTime:
    """GPU time that whoever a study is run for may still use.

    Attributes:
        left_s: Seconds of one GPU; 0 or less if all is used.
        elsewhere: GPUs at work for other studies of theirs.
    """

    left_s: float
    elsewhere: float = 0.0


@dataclass(frozen=True, slots=True)
class Wishes:
    """What those who look at a study from elsewhere want of its workers.

    Attributes:
        workers: How many there are to be; None for as many as the run began with.
        drained: Worker to the id of its node: they are to get no more work, and are
            not replaced.
        gpu_time: What may still be used of it; None for any.
    """

    workers: int | None = None
    drained: Mapping[str, str] = field(default_factory=dict)
    gpu_time: GpuTime | None = None


PoolEvent = (
    WorkerReady | BlockScored | AttemptDone | AttemptFailed | WorkerLost | NodeSetAside
)


class Pool(Protocol):
    """Workers that take one assignment each and answer in events.

    Calls come from one thread. Events of one attempt arrive in order: its blocks,
    then exactly one of AttemptDone, AttemptFailed or WorkerLost. A pool replaces lost
    workers by itself, unless the loss was fatal, and takes idle ones away when there
    are more than are wanted. Worker names are never used again.
    """

    def start(self) -> None:
        """Begin to bring workers up; returns at once, WorkerReady events follow."""

    def free(self) -> Sequence[str]:
        """Return the names of ready workers that have nothing to do."""

    def workers(self) -> Sequence[str]:
        """Return the names of the workers that are ready, whether free or at work."""

    def roster(self) -> Roster:
        """Return how many workers there are, and how many there are to be."""

    def heed(self, wishes: Wishes) -> None:
        """Take what is wanted of the workers from now on; what is at work ends first.

        A pool whose number is fixed may leave ``workers`` aside.
        """

    def submit(self, worker: str, assignment: Assignment) -> None:
        """Hand work to a free worker."""

    def poll(self, timeout_s: float) -> Sequence[PoolEvent]:
        """Return what happened, waiting up to ``timeout_s`` seconds for something."""

    def cancel(self, worker: str) -> None:
        """Kill a worker, without an event; a new one replaces it."""

    def close(self) -> None:
        """Stop every worker; idempotent."""
