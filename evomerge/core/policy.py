"""What an operator lets the studies of strangers do, as plain data.

Who writes a study file need not be who runs it. A process that works on a study of
somebody else's is confined to a policy (``confined``), and whatever reads a path, asks
a hub, runs code or starts an engine asks the policy in force. Where none is, a study is
its user's own and may do as it says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evomerge.errors import NotAllowedError

ENGINE_OPTIONS = frozenset(
    {
        "block_size",
        "enable_chunked_prefill",
        "gpu_memory_utilization",
        "kv_cache_dtype",
        "max_logprobs",
        "max_num_batched_tokens",
        "quantization",
        "tensor_parallel_size",
    }
)
"""Options of engines that change how fast they are and how exactly they compute."""
REMOTE_CODE = "trust_remote_code"
"""The option of engines that runs code which lies beside a model."""
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}
"""Variables that keep the libraries from asking a hub; read when they are imported."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What studies of strangers may do; what is not given is refused.

    Attributes:
        allow_task_code: Tasks may run code of their own (``trust_code``).
        allow_remote_code: Engines may run code that lies beside a model.
        roots: Folders that may be read, with all below them, links followed.
        hub: Models and data sets may be fetched from a hub.
        engine_options: Names that ``engine.options`` may hold.
        max_workers: Most engines at once; None for any number, as for the others.
        max_trials: Most candidates of a study, over all its stages.
        max_items: Most scored items of a study.
        max_minutes: Longest a study may be searched.
    """

    allow_task_code: bool = False
    allow_remote_code: bool = False
    roots: tuple[str, ...] = ()
    hub: bool = False
    engine_options: frozenset[str] = ENGINE_OPTIONS
    max_workers: int | None = None
    max_trials: int | None = None
    max_items: int | None = None
    max_minutes: float | None = None

    def is_within(self, path: str | Path) -> bool:
        """Tell whether a path may be read; where it really leads is what counts."""
        try:
            real = Path(path).resolve()
            return any(real.is_relative_to(Path(r).resolve()) for r in self.roots)
        except (OSError, RuntimeError, ValueError):  # links in a circle, a NUL
            return False

    def permits_option(self, name: str) -> bool:
        """Tell whether ``engine.options`` may hold a name."""
        if name == REMOTE_CODE:
            return self.allow_remote_code
        return name in self.engine_options

    def with_roots(self, *folders: str | Path) -> Policy:
        """Return a policy under which these folders may be read too."""
        roots = dict.fromkeys((*self.roots, *map(str, folders)))
        return replace(self, roots=tuple(roots))

    @property
    def readable(self) -> str:
        """The folders that may be read, in words."""
        return ", ".join(self.roots) or "(none: the operator names no roots)"

    def to_json(self) -> dict[str, Any]:
        """Return the form that an operator writes."""
        limits = ("max_workers", "max_trials", "max_items", "max_minutes")
        given = {name: getattr(self, name) for name in limits}
        return {
            "allow_task_code": self.allow_task_code,
            "allow_remote_code": self.allow_remote_code,
            "roots": list(self.roots),
            "hub": "allow" if self.hub else "deny",
            "engine_options": sorted(self.engine_options),
            **{name: value for name, value in given.items() if value is not None},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Policy:
        """Return what ``to_json`` gave."""
        return cls(
            **{
                **data,
                "roots": tuple(data["roots"]),
                "hub": data["hub"] == "allow",
                "engine_options": frozenset(data["engine_options"]),
            }
        )


_in_force: Policy | None = None


def in_force() -> Policy | None:
    """Return the policy that this process is confined to, None for none."""
    return _in_force


@contextmanager
def confined(policy: Policy | None) -> Iterator[None]:
    """Hold everything this process does to a policy; None changes nothing.

    It is the process that is confined and not a thread: libraries start their own.
    """
    global _in_force
    if policy is None:
        yield
        return
    before, _in_force = _in_force, policy
    offline: Mapping[str, str] = {} if policy.hub else OFFLINE
    kept = {name: os.environ.get(name) for name in offline}
    os.environ.update(offline)
    try:
        yield
    finally:
        _in_force = before
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def refuse_outside(path: str | Path) -> None:
    """Refuse a path that the policy in force does not let be read.

    Called before anything is looked at there: what is said does not depend on it.

    Raises:
        NotAllowedError: It lies, or leads, elsewhere.
    """
    policy = _in_force
    if policy is not None and not policy.is_within(path):
        raise NotAllowedError(
            f"{path}: may not be read here: expected a path that lies, links followed, "
            f"below {policy.readable}."
        )


def refuse_hub(wanted: str) -> None:
    """Refuse to ask a hub where the policy in force says so.

    Raises:
        NotAllowedError: It does.
    """
    if _in_force is not None and not _in_force.hub:
        raise NotAllowedError(
            f"{wanted}: the operator lets nothing be fetched from a hub (hub: deny); "
            f"expected a folder below {_in_force.readable}."
        )


def refuse_code(what: str) -> None:
    """Refuse code of a task's where the policy in force says so.

    Raises:
        NotAllowedError: It does.
    """
    if _in_force is not None and not _in_force.allow_task_code:
        raise NotAllowedError(
            f"{what}: the operator lets no task run code (allow_task_code: false); "
            "leave trust_code out, and use what lm-eval brings."
        )
