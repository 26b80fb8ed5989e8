"""How inputs are spoilt: changes to plain data, and to the bytes of a file.

Every change is a function of a value and a generator of random numbers, so a seed
gives the same spoilt input again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

Rng: TypeAlias = np.random.Generator

NUMBERS: Sequence[Any] = (
    *(0, -1, 1, 2, 7, 255, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**9, 10**30),
    *(
        0.0,
        -0.0,
        0.1,
        1.5,
        1e-300,
        5e-324,
        -5e-324,
        1e308,
        -1e308,
        1.7976931348623157e308,
    ),
    *(float("nan"), float("inf"), float("-inf")),
)
TEXTS: Sequence[str] = (
    *("", " ", "\0", "\n", "\ufeff", "é", "\U0001f600", "a" * 5000, "0", "1e5", "true"),
    *(".", "..", "../..", "/", "/dev/zero", "~", "~nobody/x", "a/b", "a\\b", "C:"),
    *("*", "**", "(", "(a+)+$", "{{", "{{ x }}", "{% for i in x %}", "%s", "${HOME}"),
    *("nan", "-", "--help", "!", "&a", "<<"),
)


WORDS: Sequence[str] = (
    *("linear", "slerp", "ties", "dare_ties", "della", "breadcrumbs", "karcher", "tsv"),
    *("sce", "wudi", "model_stock", "nuslerp", "passthrough", "task_arithmetic"),
    *("cma", "catcma", "tpe", "nsga2", "nsga3", "climb", "random", "comocatcma"),
    *("gates", "edits", "donors", "switches", "slices", "full", "layer", "edge"),
    *("merge", "base", "math", "ja", "same", "own", "split", "shared", "union", "auto"),
    *("search", "none", "global", "float16", "bfloat16", "mean", "exact_match", "acc"),
    *("multiple_choice", "loglikelihood", "generate_until", "loglikelihood_rolling"),
    *("cost/layers", "cost/parameters", "*/acc", "I32", "BF16", "F64", "F8_E4M3"),
)
"""Words that mean something somewhere, so that much of what is spoilt is read on."""


def _pick(rng: Rng, values: Sequence[Any]) -> Any:
    return values[int(rng.integers(len(values)))]


def _alike(value: Any, rng: Rng) -> Any:
    """Return a value of the same type, which reading alone seldom refuses."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return _pick(rng, NUMBERS)
    if isinstance(value, str):
        return _pick(rng, WORDS)
    if isinstance(value, list):
        return value[: int(rng.integers(len(value) + 1))] or value * 3
    return value


def _other_type(value: Any, rng: Rng) -> Any:
    others: tuple[Any, ...] = (
        None,
        True,
        False,
        0,
        1.5,
        "",
        "text",
        [],
        {},
        [value],
        {"a": value},
    )
    return _pick(rng, (*others, str(value)))


def _deep(value: Any, rng: Rng) -> Any:
    for _ in range(_pick(rng, (5, 60))):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def _many(value: Any, rng: Rng) -> Any:
    n = _pick(rng, (3, 100, 3000))
    if isinstance(value, str):
        return value * n
    return [value] * n if rng.random() < 0.5 else {f"a{i}": value for i in range(n)}


def _nudged(value: Any, rng: Rng) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        by = _pick(rng, (1, -1, 10, 0.5))
        return value + by if rng.random() < 0.5 else value * by
    if isinstance(value, str) and value:
        at = int(rng.integers(len(value)))
        return value[:at] + _pick(rng, TEXTS)[:3] + value[at + 1 :]
    return value


VALUES: Mapping[str, Callable[[Any, Rng], Any]] = {
    "alike": _alike,
    "another type": _other_type,
    "a number": lambda _, rng: _pick(rng, NUMBERS),
    "a text": lambda _, rng: _pick(rng, TEXTS),
    "nested": _deep,
    "repeated": _many,
    "nudged": _nudged,
}
"""What becomes of a value, wherever it stands."""


def _remove(parent: Any, key: Any, rng: Rng) -> None:
    del rng
    del parent[key]


def _double(parent: Any, key: Any, rng: Rng) -> None:
    again = copy.deepcopy(parent[key])
    if isinstance(parent, list):
        parent.insert(int(rng.integers(len(parent) + 1)), again)
    else:
        parent[f"{key}x"] = again


def _rename(parent: Any, key: Any, rng: Rng) -> None:
    if isinstance(parent, dict):
        parent[_pick(rng, (*TEXTS, *parent))] = parent.pop(key)
    else:
        parent.reverse()


PLACES: Mapping[str, Callable[[Any, Any, Rng], None]] = {
    "removed": _remove,
    "doubled": _double,
    "renamed": _rename,
}
"""What becomes of a key or an entry, with whatever it holds."""


_ALIKE = 0.5
_WAYS = (*VALUES, *PLACES, "from elsewhere")


def spoil(data: Any, rng: Rng) -> tuple[Any, str]:
    """Change one place of plain data.

    Returns:
        A changed copy, and what was done where.
    """
    data = [copy.deepcopy(data)]  # so that the outermost value is a place as well
    places = list(_places(data, ()))
    parent, key, path = _pick(rng, places)
    name = "alike" if rng.random() < _ALIKE else _pick(rng, _WAYS)
    if name in PLACES and parent is not data:
        PLACES[name](parent, key, rng)
    elif name in VALUES:
        parent[key] = VALUES[name](parent[key], rng)
    else:
        other, its, _ = _pick(rng, places)
        parent[key] = copy.deepcopy(other[its])
    return data[0], f"{'.'.join(map(str, path)) or 'all'} {name}"


def _places(value: Any, path: tuple[Any, ...]) -> Any:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in inner:
        below = (*path, key)
        yield value, key, below[1:]
        if isinstance(item, dict | list):
            yield from _places(item, below)


_BOMB = "b0: &b0 [x, x]\n" + "".join(
    f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


def _cut(text: bytes, rng: Rng) -> bytes:
    return text[: int(rng.integers(len(text) + 1))]


def _put(text: bytes, rng: Rng, what: bytes) -> bytes:
    at = int(rng.integers(len(text) + 1))
    return text[:at] + what + text[at:]


def _bytes(text: bytes, rng: Rng) -> bytes:
    out = bytearray(text)
    for _ in range(_pick(rng, (1, 3, 30))):
        if out:
            out[int(rng.integers(len(out)))] = int(rng.integers(256))
    return bytes(out)


def _lines(text: bytes, rng: Rng) -> bytes:
    lines = text.split(b"\n")
    at = int(rng.integers(len(lines)))
    return b"\n".join([*lines[:at], lines[at], *lines[at:]])


BYTES: Mapping[str, Callable[[bytes, Rng], bytes]] = {
    "cut": _cut,
    "emptied": lambda text, rng: b"",
    "in UTF-16": lambda text, rng: text.decode(errors="replace").encode("utf-16"),
    "other bytes": _bytes,
    "no UTF-8": lambda text, rng: _put(text, rng, b"\xff\xfe\x80"),
    "half a surrogate": lambda text, rng: _put(text, rng, b'"\\ud800"'),
    "a NUL": lambda text, rng: _put(text, rng, b"\0"),
    "a line doubled": _lines,
    "brackets": lambda text, rng: _put(
        text, rng, _pick(rng, (b"[", b'{"a":')) * _pick(rng, (1, 50, 100_000))
    ),
    "a long number": lambda text, rng: _put(text, rng, b"9" * _pick(rng, (30, 9000))),
    "an alias bomb": lambda text, rng: text + b"\n" + _BOMB.encode(),
    "twice": lambda text, rng: text + text,
}
"""What becomes of a file's bytes."""
