"""Walls that the kernel keeps around this process, for work on what strangers wrote.

Limits are those of POSIX. What may be read, written and connected to is Linux's
Landlock, which needs no privilege; elsewhere there is no such wall, and the caller is
told so. What is given up here is never had back, by children neither.
"""

from __future__ import annotations

import ctypes
import os
import resource
import stat
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_NO_NEW_PRIVILEGES = 38
_PATH_BENEATH = 1
_ASK_VERSION = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = (1 << bit for bit in range(4))
_TRUNCATE, _DEVICE = 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _DEVICE
_READ = _READ_FILE | _READ_DIR
_NEVER = (1 << 6) | (1 << 9) | (1 << 10) | (1 << 11) | _DEVICE
"""Devices, and sockets and pipes with a name: nobody here needs to make one."""
_TCP = 0b11
_SCOPES = 0b11
_BITS_OF_VERSION = {1: 13, 2: 14, 3: 15, 4: 15}
_FIRST_WITH_TCP, _FIRST_WITH_SCOPES = 4, 6
_ALL_BITS = 16

_SYSTEM = (
    *("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime"),
    *("/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/mime.types"),
    *("/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/passwd"),
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys", "/proc/self"),
    *("/sys/devices/system", "/sys/fs/cgroup", "/dev/random", "/dev/urandom"),
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/shm")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a process may use.

    Attributes:
        memory_bytes: Address space.
        cpu_s: Processor time, in seconds.
        file_bytes: Longest file it may write.
        files: Files open at once.
    """

    memory_bytes: int
    cpu_s: int
    file_bytes: int
    files: int = 1024


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def limit(limits: Limits) -> None:
    """Hold this process, and what it starts, to limits; it leaves no core behind."""
    for what, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CPU, limits.cpu_s),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.files),
    ):
        most = resource.getrlimit(what)[1]
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(what, (value, value))


def wall_in(
    readable: Iterable[Path], writable: Iterable[Path], *, network: bool
) -> bool:
    """Let this process read and write nothing but what is named, and what it runs on.

    Called before it starts a thread, which would not be walled in.

    Args:
        readable: Files and folders; links within lead as far as the wall.
        writable: Folders in which it may make, write and read files.
        network: Whether it may make TCP connections.

    Returns:
        False where the kernel knows no such wall; nothing is changed then.
    """
    kernel = ctypes.CDLL(None, use_errno=True)
    version = kernel.syscall(_CREATE, None, 0, _ASK_VERSION)
    if version < 1:
        return False
    every = (1 << _BITS_OF_VERSION.get(version, _ALL_BITS)) - 1
    wanted = _Ruleset(
        every,
        0 if network or version < _FIRST_WITH_TCP else _TCP,
        0 if version < _FIRST_WITH_SCOPES else _SCOPES,
    )
    # An older kernel takes no more of the structure than it knows.
    size = (
        8 if version < _FIRST_WITH_TCP else 16 if version < _FIRST_WITH_SCOPES else 24
    )
    ruleset = kernel.syscall(_CREATE, ctypes.byref(wanted), size, 0)
    if ruleset < 0:
        return False
    try:
        for path in _ground():
            _open(kernel, ruleset, path, (_READ | _EXECUTE) & every)
        for path in readable:
            _open(kernel, ruleset, path, _READ & every)
        for path in writable:
            _open(kernel, ruleset, path, every & ~_NEVER & ~_EXECUTE)
        for device in _DEVICES:
            access = every & ~_NEVER & ~_EXECUTE
            _open(kernel, ruleset, Path(device), access)
        kernel.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        return bool(kernel.syscall(_RESTRICT, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _ground() -> list[Path]:
    """Return what Python and its packages lie in."""
    # An installation for development is on no path of Python's.
    here = str(Path(__file__).parent)
    own = (sys.prefix, sys.base_prefix, sys.exec_prefix, here, *sys.path)
    return [Path(path) for path in (*_SYSTEM, *own) if path and path != "/"]


def _open(kernel: ctypes.CDLL, ruleset: int, path: Path, access: int) -> None:
    """Let a path be used, if it is there."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                access &= _OF_FILES
            rule = _Beneath(access, descriptor)
            kernel.syscall(_ADD, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
        finally:
            os.close(descriptor)
