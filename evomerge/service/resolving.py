"""Looking at a study that somebody wants to submit: first its words, then itself.

The words are held against the operator's policy here, at once, without reading a file
beyond the bundle. If they pass, the study is resolved by a child process that has no
secret, no way to the database or the cluster, and limits of all kinds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from evomerge.client.verbs import Checked
from evomerge.core.policy import Policy
from evomerge.errors import ClusterUnreachableError, Problem, SpecError
from evomerge.sandbox import Limits
from evomerge.service.environment import hub_home, of_look
from evomerge.specs.permitted import InBundle, refusals
from evomerge.specs.reading.yamlfile import parse_yaml
from evomerge.store.queue.bundle import STUDY_FILE, Bundle

CHILD = "evomerge.api.confined_check"
MAX_ANSWER = 4 << 20
"""Bytes that are read of what the child answers."""
AT_ONCE = 2
"""Studies that one process looks at, at a time."""
_LONG_S = 900.0
"""Seconds for a look where nobody waits for the answer."""
_turns = threading.BoundedSemaphore(AT_ONCE)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a look may take.

    Attributes:
        seconds: Until the child is ended.
        patience_s: Until somebody who waits for a turn is told to come again.
        limits: Of the child.
    """

    seconds: float = 120.0
    patience_s: float = 60.0
    limits: Limits = field(
        default_factory=lambda: Limits(
            memory_bytes=12 << 30, cpu_s=120, file_bytes=1 << 30
        )
    )


def check(
    files: Mapping[str, bytes],
    policy: Policy | None,
    *,
    cache: Path | None = None,
    bounds: Bounds = Bounds(),
) -> Checked:
    """Look at the files of a study as they would be submitted.

    Args:
        files: Relative name to content; ``study.yaml`` is the study file.
        policy: What the study may do; None for all, which is for one's own.
        cache: Folder in which fingerprints of sources and prepared data are kept
            between looks; None keeps nothing.
        bounds: How much it may take.

    Returns:
        Name of the study, every mistake, and what is worth a warning.

    Raises:
        ClusterUnreachableError: Too many others are looked at now.
    """
    found = look_at_words(files, policy)
    if found.problems:
        return found
    if not _turns.acquire(timeout=bounds.patience_s):
        raise ClusterUnreachableError(
            f"The service looks at {AT_ONCE} other studies, and has for "
            f"{bounds.patience_s:.0f} s; try again."
        )
    try:
        with tempfile.TemporaryDirectory(
            prefix="evomerge-check-", ignore_cleanup_errors=True
        ) as work:
            bundle = Path(work) / "bundle"
            Bundle(files).write(bundle)
            return look_at(bundle / STUDY_FILE, policy, cache=cache, bounds=bounds)
    finally:
        _turns.release()


def look_at_words(files: Mapping[str, bytes], policy: Policy | None) -> Checked:
    """Hold the words of a study against a policy; nothing but the files is read."""
    try:
        bundle = Bundle(files)
        data = parse_yaml(bundle.files[STUDY_FILE].decode(), STUDY_FILE)
    except SpecError as error:
        return Checked(None, error.problems)
    except UnicodeDecodeError:
        said = "expected text in UTF-8; save the file as such."
        return Checked(None, (Problem(STUDY_FILE, said),))
    problems = []
    if policy is not None:
        problems += refusals(data, InBundle(policy, bundle.files))
    name = data.get("name")
    if not isinstance(name, str):
        said = "expected a name: studies of all users are kept in one database."
        problems.append(data.lines.problem("name", said))
        return Checked(None, tuple(problems))
    if "." in name:
        said = f"expected no dot: stages are called STUDY.STAGE, got {name!r:.80}."
        problems.append(data.lines.problem("name", said))
    return Checked(name, tuple(problems))


def look_at(
    study: Path,
    policy: Policy | None,
    *,
    cache: Path | None = None,
    bounds: Bounds = Bounds(),
) -> Checked:
    """Resolve a study file, with those beside it, in a process of its own.

    Args:
        study: The file; its folder may be read.
        policy: What the study may do; None for all, which is for one's own.
        cache: Folder in which fingerprints of sources and prepared data are kept
            between looks; None keeps nothing.
        bounds: How much it may take.
    """
    has_hub = policy is None or policy.hub
    with tempfile.TemporaryDirectory(
        prefix="evomerge-look-", ignore_cleanup_errors=True
    ) as work:
        own, kept = Path(work), cache or Path(work) / "cache"
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        homes = [str(hub_home())] if has_hub else []
        request = {
            "study": str(study.absolute()),
            "writable": [work, str(kept), *homes],
            "cache": str(kept),
            "policy": None if policy is None else policy.to_json(),
            "limits": asdict(bounds.limits),
        }
        lines, code = _asked(request, of_look(own, has_hub=has_hub), own, bounds)
    return _conclusion(lines, code, bounds)


def refuse(study: Path, policy: Policy, cache: Path) -> None:
    """Refuse a study file that a process of its own finds wrong, or cannot resolve.

    For a process that goes on to resolve it with more at hand: secrets, a database.

    Raises:
        SpecError: Every mistake.
    """
    found = look_at(study, policy, cache=cache, bounds=Bounds(seconds=_LONG_S))
    if found.problems:
        raise SpecError(found.problems)


def _conclusion(lines: Sequence[bytes], code: int, bounds: Bounds) -> Checked:
    answers = [answer for line in lines if (answer := _answer(line)) is not None]
    # One without problems that was not the last: its sources are large.
    if answers and (code == 0 or not answers[-1].problems):
        return answers[-1]
    why = (
        f"took more than {bounds.seconds:.0f} s, or more memory than is allowed"
        if code < 0
        else "could not be looked at"
    )
    said = f"{why}; make its tasks and data smaller, or check it on a machine of yours."
    return Checked(None, (Problem(STUDY_FILE, said),))


def _asked(
    request: Any, environment: Mapping[str, str], folder: Path, bounds: Bounds
) -> tuple[list[bytes], int]:
    """Start the child; return the whole lines it answered, and how it ended."""
    with subprocess.Popen(
        [sys.executable, "-P", "-m", CHILD],
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        umask=0o077,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        with _ended_after(child, bounds.seconds):
            with suppress(BrokenPipeError):
                child.stdin.write(json.dumps(request).encode())
                child.stdin.close()
            answer = child.stdout.read(MAX_ANSWER)
            if len(answer) == MAX_ANSWER:
                _end(child)
            code = child.wait()
    *lines, _ = answer.split(b"\n")
    return lines, code


@contextmanager
def _ended_after(child: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, _end, (child,))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child and all that it started."""
    if child.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def _answer(line: bytes) -> Checked | None:
    """Read a line of the child's, which need not be trusted."""
    try:
        data = json.loads(line)
        problems = tuple(Problem(**problem) for problem in data["problems"])
        return Checked(data["study"], problems, tuple(map(str, data["warnings"])))
    except (ValueError, TypeError, KeyError):
        return None
