"""What is spoilt: files and rows by their form, and the commands that read them."""

from __future__ import annotations

import json
import sqlite3
import struct
import zlib
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.errors import SpecError
from evomerge.specs.reading.yamlfile import parse_yaml
from support.fuzz_inputs import MERGEKIT, RECIPES, STUDIES
from support.mutations import BYTES, VALUES, Rng, spoil

Words = tuple[str, ...]
_IN = ("--in-process",)
STUDY = "study"
"""The study that the database holds."""


def _some(data: Any, rng: Rng) -> tuple[Any, str]:
    """Change one to three places, mostly one."""
    done = []
    for _ in range(1 + int(rng.integers(3)) // 2 + int(rng.integers(3)) // 2):
        data, what = spoil(data, rng)
        done.append(what)
    return data, "; ".join(done)


def _bytes(text: bytes, rng: Rng) -> tuple[bytes, str]:
    name = list(BYTES)[int(rng.integers(len(BYTES)))]
    return BYTES[name](text, rng), name


def _document(text: bytes, rng: Rng) -> tuple[bytes, str]:
    if rng.random() < 0.15:
        return _bytes(text, rng)
    try:
        data, what = _some(json.loads(text), rng)
    except ValueError:  # spoilt before
        return _bytes(text, rng)
    return json.dumps(data).encode(), what


def _yaml(text: bytes, rng: Rng) -> tuple[bytes, str]:
    """Spoil a file that is JSON; YAML has other words for what is no number there."""
    spoilt, what = _document(text, rng)
    return spoilt.replace(b"NaN", b".nan").replace(b"Infinity", b".inf"), what


def _lines(text: bytes, rng: Rng) -> tuple[bytes, str]:
    if rng.random() < 0.15:
        return _bytes(text, rng)
    rows, what = _some([json.loads(line) for line in text.splitlines()], rng)
    rows = rows if isinstance(rows, list) else [rows]
    return "".join(json.dumps(row) + "\n" for row in rows).encode(), what


def _header(content: bytes, rng: Rng) -> tuple[bytes, str]:
    (length,) = struct.unpack("<Q", content[:8])
    chance = rng.random()
    if chance < 0.1:
        return _bytes(content, rng)
    if chance < 0.2:
        claimed = int(rng.integers(2**63))
        return struct.pack("<Q", claimed) + content[8:], f"a header of {claimed}"
    header, what = _document(content[8 : 8 + length], rng)
    return struct.pack("<Q", len(header)) + header + content[8 + length :], what


_FILES: Mapping[str, Callable[[bytes, Rng], tuple[bytes, str]]] = {
    "yaml": _yaml,
    "json": _document,
    "jsonl": _lines,
    "safetensors": _header,
}


def _cell(value: Any, rng: Rng) -> tuple[Any, str]:
    """Spoil what a column holds: JSON, packed JSON, or a plain value."""
    if isinstance(value, bytes):
        chance = rng.random()
        if chance < 0.2:
            return _bytes(value, rng)
        if chance < 0.3:
            return zlib.compress(b"[" * (1 << 30 if chance < 0.22 else 1 << 20)), "bomb"
        text, what = _document(zlib.decompress(value), rng)
        return zlib.compress(text), what
    if isinstance(value, str) and value[:1] in ("{", "["):
        text, what = _document(value.encode(), rng)
        return text.decode(errors="replace"), what
    names = ("another type", "a number", "a text", "nudged")
    name = names[int(rng.integers(len(names)))]
    changed = VALUES[name](value, rng)
    if isinstance(changed, list | dict):
        changed = json.dumps(changed)
    if isinstance(changed, int) and abs(changed) >= 1 << 63:
        changed = str(changed)
    return changed, name


def _rows(file: Path, rng: Rng) -> str:
    """Spoil one to three cells of a database."""
    done = []
    with closing(sqlite3.connect(file)) as database:
        tables = [
            name
            for (name,) in database.execute(
                "SELECT name FROM sqlite_master "
                "WHERE type = 'table' AND name LIKE 'em%'"
            )
            if database.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
        ]
        for _ in range(int(rng.integers(1, 4))):
            table = tables[int(rng.integers(len(tables)))]
            rows = database.execute(f"SELECT rowid, * FROM {table}")
            columns = [column[0] for column in rows.description]
            found = rows.fetchall()
            at, which = (
                int(rng.integers(len(found))),
                int(rng.integers(1, len(columns))),
            )
            value, what = _cell(found[at][which], rng)
            # What a constraint forbids, nobody's program can have written.
            with suppress(sqlite3.IntegrityError):
                database.execute(
                    f'UPDATE {table} SET "{columns[which]}" = ? WHERE rowid = ?',
                    (value, found[at][0]),
                )
                done.append(f"{table}.{columns[which]} {what}")
        database.commit()
    return "; ".join(done)


@dataclass(frozen=True)
class Target:
    """One input, and what reads it.

    Attributes:
        file: Within the folder of inputs.
        commands: Called one after another.
        kept: Outermost keys that stay as they were, so that a search ends.
    """

    file: str
    commands: tuple[Words, ...]
    kept: tuple[str, ...] = ()

    def spoil(self, folder: Path, rng: Rng) -> str:
        """Spoil the file, which may be a hard link; return what was done."""
        file = folder / self.file
        if file.suffix == ".db":
            return _rows(file, rng)
        text = file.read_bytes()
        spoilt, what = _FILES[file.suffix[1:]](text, rng)
        if self.kept:
            spoilt = self._keep(json.loads(text), spoilt)
        file.unlink()
        file.write_bytes(spoilt)
        return what

    def _keep(self, sound: Mapping[str, Any], spoilt: bytes) -> bytes:
        try:
            data = parse_yaml(spoilt.decode(), self.file)
        except (SpecError, ValueError):
            return spoilt
        return json.dumps(data | {key: sound[key] for key in self.kept}).encode()


def _of_models(*files: str) -> dict[str, Target]:
    """Files of a model's folder: a merge and a check read each."""
    own = ("merge", "recipe-own.yaml", "out")
    check = ("check", "numbers.yaml", "--no-dry-run")
    return {f"models {file}": Target(f"models/{file}", (own, check)) for file in files}


_READING: tuple[Words, ...] = (
    *((word, STUDY) for word in ("status", "front", "trials", "attempts")),
    *(("studies",), ("db", "check")),
)
TARGETS: Mapping[str, Target] = {
    **{
        f"study {name}": Target(
            f"{name}.yaml", (("check", f"{name}.yaml", "--no-dry-run"),)
        )
        for name in STUDIES
    },
    **{
        f"trial run {name}": Target(
            f"{name}.yaml", (("check", f"{name}.yaml"),), ("engine",)
        )
        for name in STUDIES
    },
    **{
        f"search {name}": Target(
            f"{name}.yaml", (("run", f"{name}.yaml", *_IN),), ("budget", "engine")
        )
        for name in STUDIES
        if name != "stages"
    },
    "evaluators": Target("evaluators.yaml", (("check", "study.yaml"),)),
    **{
        f"recipe {name}": Target(
            f"recipe-{name}.yaml", (("merge", f"recipe-{name}.yaml", "out"),)
        )
        for name in (*RECIPES, "canonical")
    },
    **{
        f"mergekit {name}": Target(
            f"mergekit-{name}.yaml", (("merge", f"mergekit-{name}.yaml", "out"),)
        )
        for name in MERGEKIT
    },
    **{
        f"task {file}": Target(f"tasks/{file}", (("check", "tasked.yaml"),))
        for file in ("sums.yaml", "echo.yaml", "sums.jsonl")
    },
    **_of_models(
        *("base/config.json", "base/model.safetensors", "math/config.json"),
        *("base/tokenizer.json", "base/tokenizer_config.json"),
        *("adapter/adapter_config.json", "adapter/adapter_model.safetensors"),
        *("ja/model.safetensors.index.json", "ja/model-1.safetensors"),
        *("base/generation_config.json",),
    ),
    "vocabulary": Target(
        "models/wide/tokenizer.json", (("merge", "recipe-vocabulary.yaml", "out"),)
    ),
    "rows read": Target("evomerge.db", _READING),
    "rows resumed": Target(
        "evomerge.db", (("resume", STUDY, "--trials", "5", *_IN), ("db", "check"))
    ),
    "rows exported": Target("evomerge.db", (("export", STUDY, "out"),)),
}
"""What is spoilt by name."""
