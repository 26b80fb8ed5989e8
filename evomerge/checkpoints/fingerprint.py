"""Content fingerprints: a model's name wherever it lies.

Every byte is hashed, by SHA-256: hubs list their files by it, and processors have
instructions for it. A file that was hashed before is recognised by path, size,
modification time and inode, within the process and, where a cache folder is given,
between processes. The memo can be deleted at any time.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from evomerge.core.digest import digest
from evomerge.errors import CheckpointError
from evomerge.steps import BYTES, Step, step

MEMO_NAME = "fingerprints.json"
_MEMO_LIMIT = 10_000
_CHUNK = 1 << 20

_known: dict[str, str] = {}


def fingerprint(
    folder: Path,
    names: Iterable[str],
    cache_dir: Path | None = None,
    *,
    named: bool = True,
) -> str:
    """Name the content of some files of a folder.

    Args:
        folder: The model folder.
        names: Files that count, relative to the folder.
        cache_dir: Folder of the memo; None keeps it within the process.
        named: What the files are called is part of the content.

    Returns:
        32 hexadecimal digits, equal for equal names and bytes.

    Raises:
        CheckpointError: A file cannot be read, or changed while it was read.
    """
    on_disk = {} if cache_dir is None else _load(cache_dir)
    hashes: dict[str, str] = {}
    fresh: dict[str, str] = {}
    ordered = sorted(set(names))
    keys = [_key(folder / name) for name in ordered]

    unknown = [key for key in keys if not (key in _known or key in on_disk)]
    n_bytes = sum(int(key.rsplit("|", 3)[1]) for key in unknown)

    def find(name: str, key: str) -> str:
        return _known.get(key) or on_disk.get(key) or _hash(folder / name, key, now)

    # Hashing leaves the interpreter to others: one thread a core, shard by shard.
    with (
        step(f"reading {folder.name}", n_bytes, BYTES) as now,
        ThreadPoolExecutor(min(len(ordered), os.cpu_count() or 1) or 1) as pool,
    ):
        found_all = list(pool.map(find, ordered, keys))
    for name, key, found in zip(ordered, keys, found_all, strict=True):
        hashes[name] = _known[key] = found
        if key not in on_disk:
            fresh[key] = found
    if cache_dir is not None and fresh:
        _save(cache_dir, fresh)
    return digest(hashes if named else list(hashes.values()))


@contextmanager
def remembered(cache_dir: Path | None) -> Iterator[None]:
    """Take fingerprints within the block from a memo, and add to it what is new.

    For callers who read many things and do not say where each is remembered.

    Args:
        cache_dir: Folder of the memo; None remembers nothing.
    """
    if cache_dir is None:
        yield
        return
    on_disk = _load(cache_dir)
    _known.update(on_disk)
    before = set(_known)
    try:
        yield
    finally:
        fresh = {key: _known[key] for key in set(_known) - before}
        if fresh:
            _save(cache_dir, fresh)


def _key(file: Path) -> str:
    try:
        real = file.resolve()
        stat = real.stat()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}.") from error
    return f"{real}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}"


def _hash(file: Path, key: str, now: Step) -> str:
    found, chunk = hashlib.sha256(), bytearray(_CHUNK)
    try:
        with file.open("rb", buffering=0) as stream:
            while n := stream.readinto(chunk):
                found.update(memoryview(chunk)[:n])
                now.advance(n)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}.") from error
    if _key(file) != key:
        raise CheckpointError(f"{file}: changed while it was read; try again.")
    return found.hexdigest()


def _load(cache_dir: Path) -> dict[str, str]:
    """Read the memo; anything unreadable counts as no memo, since it can be remade."""
    try:
        data = json.loads((cache_dir / MEMO_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(data, dict):
        return {}
    return {k: v for k, v in data.items() if isinstance(v, str) and len(v) == 64}


def _save(cache_dir: Path, fresh: dict[str, str]) -> None:
    """Add to the memo; the last writer wins, a lost entry is only hashed again."""
    merged = {**_load(cache_dir), **fresh}
    kept = dict(list(merged.items())[-_MEMO_LIMIT:])
    partial = cache_dir / f".{MEMO_NAME}.{os.getpid()}"
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(kept, indent=0), encoding="utf-8")
        partial.replace(cache_dir / MEMO_NAME)
    except OSError:
        # A read-only or full cache folder costs time at the next start, nothing else.
        with suppress(OSError):
            partial.unlink()
