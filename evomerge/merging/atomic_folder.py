"""A folder that is there whole or not at all.

It is filled under a hidden name beside the target and renamed when it is safely on
disk. Whoever fills it holds a lock on it, so that the next one can tell what was left
by a killed process and remove it.
"""

import errno
import fcntl
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from evomerge.errors import ExportError

_MARGIN_BYTES = 1_000_000
"""Room for headers, index, configuration and the folder itself."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_folder(target: Path, size_bytes: int) -> Iterator[Path]:
    """Give a hidden folder that becomes ``target`` if the block ends well.

    Args:
        target: Must not exist.
        size_bytes: How much will be written.

    Raises:
        ExportError: The target exists, or the disk is too small or refuses.
    """
    if target.exists() or target.is_symlink():
        raise ExportError(
            f"{target} exists already; nothing is overwritten. Choose another folder "
            "or remove it."
        )
    partial = target.parent / f".{target.name}.partial-{os.getpid()}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        _check_space(target, size_bytes)
        # Ours by its process id: whatever lies there was left by a killed namesake.
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        with _lock(partial):
            yield partial
            _sync(partial)
            partial.rename(target)
            _sync(target.parent)
    except OSError as error:
        raise ExportError(_explain(target, size_bytes, error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_leftovers(target: Path) -> None:
    """Remove what killed processes left; who still writes holds a lock."""
    name = f".{glob.escape(target.name)}.partial-*"
    for left in list(target.parent.glob(name)):
        # A file system without locks: better a folder too many than one too few.
        with suppress(OSError), _lock(left) as is_held:
            if is_held:
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Hold the lock on a folder; tell whether it was to be had.

    It is not if another process holds it, or if the file system has none.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        is_held = False
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_held = True
        yield is_held
    finally:
        os.close(descriptor)


def _check_space(target: Path, size_bytes: int) -> None:
    free = shutil.disk_usage(target.parent).free
    needed = size_bytes + _MARGIN_BYTES
    if free < needed:
        raise ExportError(
            f"No disk space for {target}: the model needs {_mb(needed)}, but "
            f"{_mb(free)} are free. Free some space or choose another disk."
        )


def _explain(target: Path, size_bytes: int, error: OSError) -> str:
    if error.errno in _FULL:
        return (
            f"The disk became full while {target} was written ({error.strerror}); it "
            f"needs {_mb(size_bytes + _MARGIN_BYTES)}. What was written is removed. "
            "Free some space or choose another disk."
        )
    return f"{target} cannot be written: {error.strerror or error}."


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"


def _sync(folder: Path) -> None:
    """Make the names in a folder durable, not only the bytes of its files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
