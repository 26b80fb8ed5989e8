"""The process in which ``limited`` renders templates and matches patterns.

Started by its path, it imports nothing of this project. It trusts the requests of the
parent, which need not trust the answers: they are JSON.
"""

from __future__ import annotations

import json
import pickle
import re
import resource
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import SandboxedEnvironment

SIZE = struct.Struct("<Q")
"""Length of a request or an answer, in bytes, before it."""


def main(request_s: int, memory_bytes: int, answer_bytes: int, item_s: float) -> None:
    """Answer requests until the parent closes the pipe, or a limit ends it.

    Args:
        request_s: Processor time for one request; the kernel ends what takes longer.
        memory_bytes: Address space.
        answer_bytes: Longest answer, as JSON.
        item_s: Processor time that each request adds to what all may take together.
    """
    work = _work()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    ends = resource.getrlimit(resource.RLIMIT_CPU)[1]
    credit = float(request_s)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while head := source.read(SIZE.size):
        name, *args = pickle.loads(source.read(SIZE.unpack(head)[0]))  # noqa: S301
        if name == "chat" and name not in work:
            work[name] = _chat()
        began = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(began) + 1 + request_s, ends))
        answer = _answer(work[name], args)
        credit += item_s - (time.process_time() - began)
        if credit < 0:
            answer = {"limit": "time, all its uses together"}
        text = json.dumps(answer).encode()
        if len(text) > answer_bytes:
            text = json.dumps({"limit": f"{answer_bytes} bytes"}).encode()
        sink.write(SIZE.pack(len(text)) + text)
        sink.flush()


def _answer(work: Callable[..., Any], args: list[Any]) -> dict[str, Any]:
    try:
        return {"value": work(*args)}
    except MemoryError:
        return {"limit": "memory"}
    except Exception as error:  # noqa: BLE001 - a template may raise anything
        return {"error": f"{type(error).__name__}: {error}"[:2000]}


def _work() -> dict[str, Callable[..., Any]]:
    """Return what can be asked for: lm-eval's own templates and uses of patterns."""
    env = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    env.filters["regex_replace"] = _regex_replace
    compiled: dict[str, Template] = {}

    def render(template: str, fields: dict[str, Any]) -> str:
        if template not in compiled:
            compiled[template] = env.from_string(template)
        return compiled[template].render(**fields)

    return {"render": render, "findall": re.findall, "sub": re.sub}


def _chat() -> Callable[..., Any]:
    """Return what writes messages with a model's chat template: transformers' own."""
    from transformers.utils.chat_template_utils import render_jinja_template

    def chat(template: str, messages: list[Any], ways: dict[str, Any]) -> str:
        rendered, _ = render_jinja_template([messages], chat_template=template, **ways)
        return rendered[0]

    return chat


def _regex_replace(string: str, pattern: str, repl: str, count: int = 0) -> str:
    return re.sub(pattern, repl, string, count=count)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
