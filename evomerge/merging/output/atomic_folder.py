"""A folder that is there whole or not at all.

It is filled under a hidden name beside the target and renamed when it is safely on
disk; or it changes places with the one that is there, in one step where the system can
(Linux and macOS, on local file systems). Where it cannot, there is a moment between two
renames in which a reader finds nothing. Whoever fills a folder holds a lock on it, so
that the next one can tell what was left by a killed process, and remove it or put it
back.
"""

import ctypes
import errno
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

from evomerge.errors import ExportError

_MARGIN_BYTES = 1_000_000
"""Room for headers, index, configuration and the folder itself."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CANNOT_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD, RENAME_EXCHANGE (macOS: RENAME_SWAP)


@contextmanager
def atomic_folder(
    target: Path, size_bytes: int, *, replace: bool = False
) -> Iterator[Path]:
    """Give a hidden folder that becomes ``target`` if the block ends well.

    Args:
        target: Must not exist, unless it is to be replaced.
        size_bytes: How much will be written.
        replace: Put it in the place of a folder that is there.

    Raises:
        ExportError: The target exists, or the disk is too small or refuses.
    """
    name = f"{os.getpid()}-{secrets.token_hex(4)}"
    partial = target.parent / f".{target.name}.partial-{name}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        _refuse_taken(target, replace=replace)
        _check_space(target, size_bytes)
        partial.mkdir()
        with _lock(partial):
            yield partial
            _sync(partial)
            if not (replace and target.exists()):
                partial.rename(target)
            elif not _exchanged(partial, target):
                _follow(partial, target, target.parent / f".{target.name}.old-{name}")
            _sync(target.parent)
    except OSError as error:
        raise ExportError(_explain(target, size_bytes, error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _refuse_taken(target: Path, *, replace: bool) -> None:
    if (target.exists() and not replace) or target.is_symlink():
        raise ExportError(
            f"{target} exists already; nothing is overwritten. Choose another folder "
            "or remove it."
        )


def _exchanged(new: Path, target: Path) -> bool:
    """Let two folders change places in one step; False if this system cannot."""
    system = ctypes.CDLL(None, use_errno=True)
    first, second = os.fsencode(new), os.fsencode(target)
    if hasattr(system, "renameat2"):
        failed = system.renameat2(_HERE, first, _HERE, second, _EXCHANGE)
    elif hasattr(system, "renamex_np"):
        failed = system.renamex_np(first, second, _EXCHANGE)
    else:
        return False
    number = ctypes.get_errno()
    if failed and number not in _CANNOT_EXCHANGE:
        raise OSError(number, os.strerror(number), str(target))
    return not failed


def _follow(new: Path, target: Path, old: Path) -> None:
    """Take the earlier folder away, and put the new one there."""
    with _lock(target):  # nobody else puts it back meanwhile
        target.rename(old)
        try:
            new.rename(target)
        except BaseException:
            old.rename(target)
            raise
    shutil.rmtree(old, ignore_errors=True)


def _remove_leftovers(target: Path) -> None:
    """Remove what killed processes left; who still writes holds a lock.

    An earlier folder that was taken away, and not yet followed by another, is put back.
    """
    name = glob.escape(target.name)
    for kind in ("partial", "old"):
        for left in list(target.parent.glob(f".{name}.{kind}-*")):
            # A file system without locks: better a folder too many than one too few.
            with suppress(OSError), _lock(left) as is_held:
                if is_held and kind == "old" and not target.exists():
                    left.rename(target)
                elif is_held:
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
            is_held = lock_descriptor(descriptor, blocking=False)
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
