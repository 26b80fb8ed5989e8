"""Files of statistics, written whole under names that say what they hold."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from evomerge.core.digest import digest

VERSION = 1
"""Of how statistics are measured: raise it when the same data gives other numbers."""


def write_statistics(
    folder: Path, kind: str, source: str, data: str, tensors: Mapping[str, torch.Tensor]
) -> Path:
    """Write what was measured, whole or not at all, under a name that says what it is.

    Args:
        folder: Where such files are kept; made if there is none.
        kind: Of the catalogue.
        source: Fingerprint of the model.
        data: Digest of the data it was measured on.
        tensors: Name of a tensor of the model to one number per entry.

    Returns:
        The file: named by kind, source, data and version of the method.
    """
    said = {"kind": kind, "source": source, "data": data, "version": str(VERSION)}
    file = folder / f"{digest(said)}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}")
    try:
        save_file({n: t.contiguous() for n, t in tensors.items()}, partial, said)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return file
