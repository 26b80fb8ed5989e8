"""The models a file names, as folders or hub ids: found, read and compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from evomerge.checkpoints import Model, compatibility, hub, read_model
from evomerge.core.recipe import DTYPES
from evomerge.errors import CheckpointError, HubError
from evomerge.specs.mistakes import Mistakes

UNKNOWN_LAYERS = 128
"""Layers assumed where no source can be read: enough to find other mistakes."""


def source_folder(written: str, base_dir: Path) -> Path:
    """Return the folder meant: ``~`` unfolded, relative to ``base_dir``."""
    return (base_dir / Path(written).expanduser()).absolute()


def open_source(
    written: str, base_dir: Path, *, cache_dir: Path | None = None
) -> Model:
    """Read the model meant: a folder, or else a hub id, which is fetched.

    Args:
        written: A path, or ``org/name`` or ``org/name@revision``, with or without
            ``hf://``. Without, a folder of that name is taken first.
        base_dir: Where relative paths start.
        cache_dir: Where fingerprints are remembered between processes, if anywhere.

    Raises:
        CheckpointError: There is neither, or the model is refused.
    """
    folder = source_folder(written, base_dir)
    wanted = _hub_id(written, folder)
    if wanted is None:
        if not folder.exists():
            raise CheckpointError(
                f"{folder}: does not exist. Give the folder of a model saved by "
                "transformers, or a hub id as org/name or org/name@revision."
            )
        return read_model(folder, cache_dir=cache_dir)
    try:
        found = hub.fetch(wanted)
    except HubError as error:
        raise HubError(_neither(written, error)) from error
    model = read_model(found.folder, cache_dir=cache_dir)
    return replace(model, origin=str(found.pinned))


def missing(written: str, base_dir: Path) -> str | None:
    """Say what is wrong with a source that is not there, without fetching it."""
    folder = source_folder(written, base_dir)
    if folder.is_dir():
        return None
    try:
        wanted = _hub_id(written, folder)
        if wanted is None:
            return f"expected a model folder, got {written!r}, which does not exist."
        hub.look_up(wanted)
    except CheckpointError as error:
        return f"expected a model: {_neither(written, error)}"
    return None


def _hub_id(written: str, folder: Path) -> hub.HubId | None:
    if folder.exists() and not written.startswith(hub.SCHEME):
        return None
    return hub.parse(written)


def _neither(written: str, error: CheckpointError) -> str:
    """A mistyped path looks like a hub id, so both are spoken of."""
    if written.startswith(hub.SCHEME):
        return str(error)
    return f"there is no folder {written!r}, and as a hub id: {error}"


def read_sources(
    sources: Mapping[str, str],
    base_dir: Path,
    mistakes: Mistakes,
    *,
    key: str = "sources",
    cache_dir: Path | None = None,
) -> dict[str, Model]:
    """Read every model and compare them, in order of their names."""
    models: dict[str, Model] = {}
    for name in sorted(sources):
        try:
            models[name] = open_source(sources[name], base_dir, cache_dir=cache_dir)
        except (CheckpointError, OSError, RuntimeError) as error:
            mistakes.add(f"{key}.{name}", f"expected a model: {error}")
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
