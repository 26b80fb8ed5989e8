"""Templates and patterns of tasks and models, limited in time and memory.

A template may loop, a pattern may backtrack, without end; and what a pattern meets is
what a candidate wrote. Neither can be stopped within a process, so they are worked on
in another one, which the kernel ends when it takes too long; those that are sure to be
quick need no other process. Called by ``internals`` in place of jinja and ``re``, and
by ``adapter`` for a model's chat template.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import SandboxedEnvironment

from evomerge.errors import EvomergeError
from evomerge.scoring.harness import limited_process
from evomerge.scoring.harness.limited_process import SIZE
from evomerge.scoring.harness.quick import LONGEST, is_quick_pattern, is_quick_template

SECONDS = 1
"""Processor time for one template or pattern on one text."""
ITEM_SECONDS = 0.002
"""Processor time that all uses together may take, for each, besides ``SECONDS``."""
MEMORY_BYTES = 1 << 30
"""Address space of the process."""
ANSWER_BYTES = 16 << 20
"""Longest text a template may make, in bytes."""
_ENVIRONMENT = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH")
"""Variables that the process has: none that may be a secret."""
_WHAT = {"render": "template", "chat": "chat template"}
_KEPT = 4096
_KEPT_BYTES = 16 << 10


class LimitError(EvomergeError):
    """A template or pattern takes too long, or too much memory.

    Attributes:
        source: The template or pattern.
        text: What a pattern was to be matched with; None for templates.
    """

    def __init__(self, message: str, source: str, text: str | None) -> None:
        self.source = source
        self.text = text
        super().__init__(message)

    def at(self, where: str) -> LimitError:
        """Return the same error, which says where the template or pattern stands."""
        return LimitError(f"{where}: {self}", self.source, self.text)


class Template:
    """A template of jinja's, rendered in the limited process."""

    def __init__(self, source: str) -> None:
        self._source = source
        tree = _sandbox.parse(source)  # nothing is evaluated
        self._names = {node.name for node in tree.find_all(nodes.Name)}
        is_quick = len(source) <= LONGEST and is_quick_template(tree)
        self._quick = _sandbox.from_string(source) if is_quick else None

    def render(self, **fields: Any) -> str:
        """Return the text for a document.

        Raises:
            TemplateError: The template asks for what is not there, or not allowed.
            LimitError: It takes too long, or too much memory.
        """
        if self._quick is not None:
            return self._quick.render(fields)
        used = {name: fields[name] for name in sorted(self._names & fields.keys())}
        try:
            return str(_process.ask("render", self._source, used))
        except ValueError as error:
            raise jinja2.TemplateError(str(error)) from None


def write_chat(
    template: str, messages: list[dict[str, Any]], ways: Mapping[str, Any]
) -> str:
    """Return messages as a model's chat template writes them, in the limited process.

    Args:
        template: In jinja's language, as transformers understands it.
        messages: With ``role`` and ``content``.
        ways: How, and the special tokens, by the names that transformers gives them.

    Raises:
        TemplateError: The template refuses the messages, or asks for what is not there.
        LimitError: It takes too long, or too much memory.
    """
    try:
        return str(_process.ask("chat", template, messages, dict(ways)))
    except ValueError as error:
        raise jinja2.TemplateError(str(error)) from None


class Pattern:
    """A regular expression, matched in the limited process."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._plain = re.compile(source)
        self._is_quick = is_quick_pattern(source)

    def findall(self, text: str) -> list[Any]:
        """Return what ``re.findall`` does.

        Raises:
            LimitError: It takes too long, or too much memory.
        """
        if self._is_quick and len(text) <= LONGEST:
            return self._plain.findall(text)
        found = _process.ask("findall", self._source, text)
        return [tuple(one) if isinstance(one, list) else one for one in found]

    def sub(self, replacement: str, text: str) -> str:
        """Return what ``re.sub`` does.

        Raises:
            LimitError: It takes too long, or too much memory.
        """
        if self._is_quick and len(text) <= LONGEST:
            return self._plain.sub(replacement, text)
        return str(_process.ask("sub", self._source, replacement, text))


class Patterns:
    """Stands in for the module ``re`` where patterns come from a task."""

    compile = staticmethod(functools.lru_cache(1024)(Pattern))
    escape = staticmethod(re.escape)

    @staticmethod
    def findall(pattern: str, text: str) -> list[Any]:
        """Return what ``re.findall`` does; see ``Pattern``."""
        return Patterns.compile(pattern).findall(text)

    @staticmethod
    def sub(pattern: str, replacement: str, text: str) -> str:
        """Return what ``re.sub`` does; see ``Pattern``."""
        return Patterns.compile(pattern).sub(replacement, str(text))


class _Process:
    """The limited process, started when it is first asked, and again if it ended."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()
        self._known: dict[bytes, Any] = {}

    def ask(self, name: str, *args: Any) -> Any:
        """Return the answer to a request, perhaps one that was given before.

        Raises:
            ValueError: What is asked for ended in an error of its own.
            LimitError: It took too long, or too much memory.
        """
        request = pickle.dumps((name, *args))
        with self._lock:
            if request in self._known:
                return self._known[request]
            try:
                answer, length = self._exchange(request)
            except BaseException:  # an answer left in the pipe would go to the next
                self.stop()
                raise
            if "limit" in answer:
                self.stop()
                what = _WHAT.get(name, "pattern")
                said = (
                    f"the {what} {args[0]!r:.80} takes more than is allowed "
                    f"({answer['limit']}); write one that loops or backtracks less"
                )
                raise LimitError(said, args[0], None if name in _WHAT else args[-1])
            if "error" in answer:
                raise ValueError(answer["error"])
            if len(request) + length < _KEPT_BYTES:
                if len(self._known) >= _KEPT:
                    self._known.clear()
                self._known[request] = answer["value"]
            return answer["value"]

    def stop(self) -> None:
        """End the process, if it is this one's."""
        child, self._child = self._child, None
        if child is not None and self._owner == os.getpid():
            child.kill()
            child.communicate()

    def _exchange(self, request: bytes) -> tuple[dict[str, Any], int]:
        child = self._started()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(SIZE.pack(len(request)) + request)
            child.stdin.flush()
        except BrokenPipeError:
            return {"limit": self._why_ended(child)}, 0
        head = child.stdout.read(SIZE.size)
        if len(head) < SIZE.size:
            return {"limit": self._why_ended(child)}, 0
        text = child.stdout.read(SIZE.unpack(head)[0])
        return json.loads(text), len(text)

    def _why_ended(self, child: subprocess.Popen[bytes]) -> str:
        ended = child.wait()
        if ended in (-signal.SIGXCPU, -signal.SIGKILL):
            return f"{SECONDS} s of processor time"
        return f"{MEMORY_BYTES >> 20} MiB of memory"

    def _started(self) -> subprocess.Popen[bytes]:
        """Return the process; a fork of this one starts its own."""
        if self._child is None or self._owner != os.getpid():
            self._owner = os.getpid()
            limits = (SECONDS, MEMORY_BYTES, ANSWER_BYTES, ITEM_SECONDS)
            file = Path(limited_process.__file__)
            self._child = subprocess.Popen(
                [sys.executable, "-P", str(file), *map(str, limits)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={k: v for k, v in os.environ.items() if k in _ENVIRONMENT},
            )
        return self._child


_sandbox = SandboxedEnvironment(
    undefined=jinja2.StrictUndefined, keep_trailing_newline=True
)
_process = _Process()
atexit.register(_process.stop)
