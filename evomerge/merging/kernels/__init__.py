"""Arithmetic compiled to machine code: the inner loops of merging on a CPU."""

from typing import Any

from llvmlite import binding
from llvmlite.binding import ffi
from numba.core import config


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
