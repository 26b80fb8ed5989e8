"""GGUF files of llama.cpp as ordinary model folders, by transformers' own reader.

Quantised weights come back as the numbers they stand for, which are not those of the
model they were once made from: a conversion is exact, what was lost before stays lost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from evomerge.checkpoints.model import CONFIG, read_model
from evomerge.errors import CheckpointError
from evomerge.merging.output.atomic_folder import atomic_folder
from evomerge.steps import step, through

SUFFIX = ".gguf"
_MAGIC = b"GGUF"
_GROWTH = 8
"""Bytes of the result for each of the file, at most: two bits become two bytes."""


def gguf_file(source: Path) -> Path:
    """Return the one GGUF file that a path names, itself or as a folder's only one.

    Raises:
        CheckpointError: There is none, there are several, or it is no GGUF file.
    """
    found = source
    if source.is_dir():
        files = sorted(p for p in source.iterdir() if p.suffix.lower() == SUFFIX)
        if len(files) != 1:
            named = ", ".join(p.name for p in files) or "none"
            raise CheckpointError(
                f"{source}: expected a GGUF file, or a folder with one of them, found "
                f"{named}. Name the file; parts of a split file have to be put "
                "together first (llama-gguf-split --merge)."
            )
        (found,) = files
    try:
        with found.open("rb") as file:
            is_gguf = file.read(len(_MAGIC)) == _MAGIC
    except OSError as error:
        raise CheckpointError(f"{found}: cannot be read: {error.strerror}.") from error
    if not is_gguf:
        raise CheckpointError(
            f"{found}: expected a GGUF file, but its first bytes differ."
        )
    return found


def convert_gguf(
    source: Path,
    out: Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    replace: bool = False,
    finish: Callable[[Path], None] | None = None,
) -> None:
    """Write the model of a GGUF file as a folder of safetensors with its tokenizer.

    Args:
        source: A ``.gguf`` file, or a folder with one of them.
        out: The folder; it appears when it is complete.
        dtype: Of the written weights, which are worked out in float32.
        replace: Put it in the place of a folder that is there.
        finish: Adds to the folder before it appears.

    Raises:
        CheckpointError: It is no GGUF file, is broken, of an architecture that
            transformers does not read, or of one that merges do not understand.
        ExportError: The target exists, or the disk is too small or refuses.
        ModuleNotFoundError: gguf or accelerate is not installed.
    """
    import accelerate  # noqa: F401  transformers needs both, and says so less clearly
    import gguf  # noqa: F401

    file = gguf_file(source)
    size = file.stat().st_size * _GROWTH
    with atomic_folder(out, size, replace=replace) as folder:
        with quiet_transformers(), _counted(), step("reading the tokenizer"):
            _write(file, folder, dtype)
        if finish is not None:
            finish(folder)
        read_model(folder)  # what cannot be merged is refused here and not later


def _write(file: Path, folder: Path, dtype: torch.dtype) -> None:
    model, tokenizer = _loaded(file)
    model.to(dtype)
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # Else transformers would write what the numbers were packed as, not the numbers.
    model.is_quantized, model.hf_quantizer, model.quantization_method = (
        False,
        None,
        None,
    )
    save(model, tokenizer, folder)


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a transformers model as it is, with its tokenizer, for all who may read."""
    model.config.dtype = model.dtype
    with quiet_transformers():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():  # weights are written for nobody but their writer
        path.chmod((folder / CONFIG).stat().st_mode)


def _loaded(file: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, **where, dtype=torch.float32
        )
    except ImportError:
        raise
    except Exception as error:  # the reader has no errors of its own
        raise CheckpointError(
            f"{file}: transformers cannot read it: {type(error).__name__}: {error} Use "
            "the repository of the model it was made from, with its safetensors."
        ) from error
    return model, tokenizer


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Neither bars nor words about tokens that a conversion may add."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()


@contextmanager
def _counted() -> Iterator[None]:
    """Tell of the reader's bar, which knows no switch, as a step."""
    from transformers import modeling_gguf_pytorch_utils as reader

    def counting(tensors: Collection[Any], **_: Any) -> Iterator[Any]:
        return through("converting", tensors, "tensors")

    before = reader.tqdm
    reader.tqdm = counting
    try:
        yield
    finally:
        reader.tqdm = before
