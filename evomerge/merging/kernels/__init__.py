"""Arithmetic compiled to machine code: the inner loops of merging on a CPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from llvmlite import binding
from llvmlite.binding import ffi
from numba.core import caching, config


def _answer_for_functions_alone() -> None:
    """Keep numba's handle on LLVM from claiming attributes it does not have.

    It answers for every name, ``__dict__`` included, with a function. vLLM looks into
    ``vars`` of everything in every module when an engine starts, and falls over that.
    """
    handle: Any = type(ffi.lib)
    look_up = handle.__getattr__

    def functions_alone(self: object, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return look_up(self, name)

    handle.__getattr__ = functions_alone


_answer_for_functions_alone()


def _use_wide_registers() -> None:
    """Compile for vectors of 512 bits where the processor has them.

    Compilers shy away from them since the first such processors, which ran slower while
    they were in use; merges gain up to a third. Results are the same. Whoever sets
    NUMBA_CPU_FEATURES decides otherwise.
    """
    if config.CPU_FEATURES is not None or not config.ENABLE_AVX:
        return
    try:
        features = str(binding.get_host_cpu_features().flatten())
    except RuntimeError:  # the processor is not known
        return
    if "+avx512f" in features:
        config.CPU_FEATURES = f"{features},-prefer-256-bit"


_use_wide_registers()


@cache
def _folder_of_this_version() -> Path:
    """Return where compiled loops are kept: one folder for each content of this one.

    What is read from beside it is part of the content.
    """
    content = sha256()
    folder = Path(__file__).parent
    read = [
        folder.parent / name for name in ("constants.py", "elementary.py", "form.py")
    ]
    for file in [*sorted(folder.glob("*.py")), *read]:
        content.update(file.name.encode() + file.read_bytes())
    kept = config.CACHE_DIR or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(kept).expanduser() / "evomerge" / "kernels" / content.hexdigest()[:16]


class KeptByContent(caching.InTreeCacheLocator):
    """Where numba keeps these loops: by the content of all of them together.

    Numba itself looks at the time and size of the file that holds a loop, but not at
    those that it calls, so that an upgrade could run old code; and another copy of the
    same files would be compiled anew.
    """

    def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
        super().__init__(py_func, py_file)
        self._cache_path = str(_folder_of_this_version())

    def get_source_stamp(self) -> str:
        """Return nothing that could differ: the folder says it."""
        return ""

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> Any:
        """Return the place of a loop of this folder; None for anybody else's."""
        if Path(py_file).parent != Path(__file__).parent:
            return None
        return super().from_function(py_func, py_file)


if not config.CACHE_LOCATOR_CLASSES:
    usual = (one.__name__ for one in caching.CacheImpl._locator_classes)
    config.CACHE_LOCATOR_CLASSES = ",".join([f"{__name__}.KeptByContent", *usual])
