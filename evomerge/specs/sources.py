"""The model folders a file names, read and compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from evomerge.checkpoints import Model, compatibility, read_model
from evomerge.core.recipe import DTYPES
from evomerge.errors import CheckpointError
from evomerge.specs.mistakes import Mistakes

UNKNOWN_LAYERS = 128
"""Layers assumed where no source can be read: enough to find other mistakes."""


def source_folder(written: str, base_dir: Path) -> Path:
    """Return the folder meant: ``~`` unfolded, relative to ``base_dir``."""
    return (base_dir / Path(written).expanduser()).absolute()


def read_sources(
    sources: Mapping[str, str],
    base_dir: Path,
    mistakes: Mistakes,
    *,
    key: str = "sources",
    cache_dir: Path | None = None,
) -> dict[str, Model]:
    """Read every model folder and compare them, in order of their names."""
    models: dict[str, Model] = {}
    for name in sorted(sources):
        try:
            folder = source_folder(sources[name], base_dir)
            models[name] = read_model(folder, cache_dir=cache_dir)
        except (CheckpointError, OSError, RuntimeError) as error:
            mistakes.add(f"{key}.{name}", f"expected a model folder: {error}")
    if len(models) > 1:
        misfits = compatibility(models)
        if misfits:
            mistakes.add(key, "expected models that fit together: " + " ".join(misfits))
    return models


def common_layers(models: Mapping[str, Model]) -> int:
    """Return how many layers the models have."""
    return next((model.n_layers for model in models.values()), UNKNOWN_LAYERS)


def dtype_of(model: Model | None) -> str:
    """Return the element type a model says it is stored in; float32 if it does not."""
    config = {} if model is None else model.config
    said = config.get("dtype") or config.get("torch_dtype")
    return said if said in DTYPES else "float32"
