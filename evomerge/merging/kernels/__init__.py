"""Arithmetic compiled to machine code: the inner loops of merging on a CPU."""

from typing import Any

from llvmlite.binding import ffi


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
