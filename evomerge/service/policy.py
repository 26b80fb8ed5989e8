"""The operator's ``cluster.yaml``: read strictly, with all its mistakes at once.

What the policy means is held to in ``core.policy``, ``specs.permitted`` and wherever
something is read, fetched, run or started.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from evomerge.core.policy import REMOTE_CODE, Policy
from evomerge.errors import Problem, SpecError
from evomerge.specs.reading.lines import placing
from evomerge.specs.reading.mistakes import salvaged, validate
from evomerge.specs.reading.yamlfile import read_yaml
from evomerge.specs.schema.policy import PolicySpec

NEVER = {
    "allowed_local_media_path": "lets prompts read files",
    "compilation_config": "names code that is run",
    "config_format": "chooses how the model's files are read",
    "distributed_executor_backend": "chooses what runs the engine",
    "download_dir": "chooses where the engine writes",
    "hf_config_path": "reads another model's files",
    "hf_overrides": "changes what the model is",
    "hf_token": "is a secret",
    "kv_transfer_config": "connects to other machines",
    "load_format": "chooses how weights are read",
    "logits_processors": "names code that is run",
    "model": "is another model",
    "model_loader_extra_config": "chooses how weights are read",
    "reasoning_parser_plugin": "names code that is run",
    "scheduler_cls": "names code that is run",
    "speculative_config": "is another model",
    "tokenizer": "is another model's",
    "worker_cls": "names code that is run",
    "worker_extension_cls": "names code that is run",
}
"""Options that no operator can let strangers choose, and what each does."""


def read_policy(path: Path) -> Policy:
    """Read the operator's file.

    Raises:
        SpecError: Every mistake in it, each with its line.
    """
    data = read_yaml(path)
    with placing(data):
        spec, problems = validate(PolicySpec, data, path.name)
        readable = spec or salvaged(PolicySpec, data, {})
        if readable is not None:
            problems += [
                Problem(f"{path.name}: {key}", said)
                for key, said in _mistakes(readable)
            ]
        if spec is None or problems:
            raise SpecError(problems)
    return Policy(
        allow_task_code=spec.allow_task_code,
        allow_remote_code=spec.allow_remote_code,
        roots=spec.roots,
        hub=spec.hub == "allow",
        engine_options=frozenset(spec.engine_options),
        max_workers=spec.max_workers,
        max_trials=spec.max_trials,
        max_items=spec.max_items,
        max_minutes=spec.max_minutes,
    )


def write_policy(policy: Policy, file: Path) -> None:
    """Write a policy as ``read_policy`` reads it, for a process that is held to it.

    Raises:
        OSError: It cannot be written.
    """
    file.touch(mode=0o600)
    file.write_text(json.dumps(policy.to_json(), indent=2) + "\n", encoding="utf-8")


def refuse_readable(policy: Policy, ours: Iterable[tuple[str, Path]]) -> None:
    """Refuse roots from which studies could read what is the service's own.

    Args:
        policy: The policy.
        ours: What each path is, in words, and the path: spool, database, secrets.

    Raises:
        SpecError: Names each that is in a root, or has a root in it.
    """
    found = []
    for what, path in ours:
        real = path.resolve()
        for root in map(Path, policy.roots):
            if root.resolve().is_relative_to(real) or policy.is_within(real):
                said = f"expected no folder that holds, or is in, {what} ({path})"
                found.append(Problem("cluster.yaml: roots", f"{said}, got {root}."))
                break
    if found:
        raise SpecError(found)


def _mistakes(spec: PolicySpec) -> Iterator[tuple[str, str]]:
    for i, root in enumerate(spec.roots):
        path = Path(root)
        if not path.is_absolute() or ".." in path.parts:
            said = "expected a path from the root, without `..`"
        elif path.resolve() == Path("/"):
            said = "expected a folder of models or data, and not the whole machine"
        elif not path.is_dir():
            said = "expected a folder of this machine"
        else:
            continue
        yield f"roots.{i}", f"{said}, got {root!r}."
    for i, name in enumerate(spec.engine_options):
        if name in NEVER:
            said = f"expected an option that strangers may choose; {name} {NEVER[name]}"
        elif name == REMOTE_CODE:
            said = "expected allow_remote_code: true for this"
        else:
            continue
        yield f"engine_options.{i}", f"{said}."
