"""The models a file names, as folders or hub ids: found, read and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from evomerge.caches import cache_dir as own_cache
from evomerge.checkpoints import (
    BUFFER,
    Model,
    hub,
    read_model,
)
from evomerge.checkpoints.adapted import fold
from evomerge.checkpoints.adapters.adapter import Adapter, read_adapter
from evomerge.checkpoints.simulated_model import is_simulated, simulated_folder
from evomerge.checkpoints.statistics import StatisticsFile, read_statistics
from evomerge.checkpoints.weights import refuse_gguf
from evomerge.core.policy import in_force, refuse_outside
from evomerge.core.recipes.recipe import (
    DTYPES,
    STORED,
    Adapted,
    Checkpoint,
    Input,
    with_statistics,
)
from evomerge.errors import CheckpointError, HubError
from evomerge.specs.reading.mistakes import Mistakes

Statistics = Mapping[str, Mapping[str, str]]
"""Kind of statistics and name of a source to the file that holds them."""
UNKNOWN_LAYERS = 128
"""Layers assumed where no source can be read: enough to find other mistakes."""


def source_folder(written: str, base_dir: Path) -> Path:
    """Return the folder meant: ``~`` expanded, relative to ``base_dir``."""
    return (base_dir / Path(written).expanduser()).absolute()


def is_folder(path: Path) -> bool:
    """Tell whether there is a folder; of what may not be read here, nothing is told."""
    return _may_look(path) and path.is_dir()


def _may_look(path: Path) -> bool:
    policy = in_force()
    return policy is None or policy.is_within(path)


def open_source(
    written: str,
    base_dir: Path,
    *,
    cache_dir: Path | None = None,
    unknown: bool = False,
) -> Model:
    """Read the model meant: a folder, or else a hub id, which is fetched.

    Args:
        written: A path, or ``org/name`` or ``org/name@revision``, with or without
            ``hf://``. Without, a folder of that name is taken first. An adapter may
            follow after a ``+``, written the same way. Or ``simulated:NAME``: a model
            for dry runs.
        base_dir: Where relative paths start.
        cache_dir: Where fingerprints are remembered between processes, if anywhere.
        unknown: Tensors that no rule covers are no error.

    Raises:
        CheckpointError: There is neither, or the model is refused, or its adapter is
            for another base.
    """
    parts = split(written, base_dir)
    return open_pair(*parts, base_dir, cache_dir=cache_dir, unknown=unknown)


def open_pair(
    base: str,
    added: str | None,
    base_dir: Path,
    *,
    cache_dir: Path | None = None,
    unknown: bool = False,
) -> Model:
    """Read a model and the adapter that goes with it, if any; see ``open_source``.

    Raises:
        CheckpointError: As for ``open_source``.
    """
    found = _simulated(base, cache_dir)
    folder, origin = found or _find(base, base_dir, "a model saved by transformers")
    read = read_model(folder, cache_dir=cache_dir, unknown=unknown)
    model = replace(read, origin=origin)
    if added is None:
        return model
    folder, origin = _find(added, base_dir, "an adapter saved by PEFT")
    adapter = replace(read_adapter(folder, cache_dir=cache_dir), origin=origin)
    fold(adapter, model)
    return replace(model, adapter=adapter)


def _simulated(written: str, cache_dir: Path | None) -> tuple[Path, str | None] | None:
    if not is_simulated(written):
        return None
    return simulated_folder(written, cache_dir or own_cache()), written


def split(written: str, base_dir: Path) -> tuple[str, str | None]:
    """Tell a model from the adapter that may be written after it with a ``+``.

    Paths and revisions may hold a plus too: what exists as a folder is one, and
    otherwise the last sign parts the two after which an adapter can follow: a folder,
    or anything with a slash.
    """
    places = [place for place, sign in enumerate(written) if sign == "+"]
    if not places or is_folder(source_folder(written, base_dir)):
        return written, None
    pairs = [(written[:place], written[place + 1 :]) for place in reversed(places)]
    pairs = [(base.strip(), added.strip()) for base, added in pairs]
    pairs = [(base, added) for base, added in pairs if base and added]
    for is_one in (_is_folder_pair, _is_likely_pair):
        for base, added in pairs:
            if is_one(base, added, base_dir):
                return base, added
    return written, None


def _is_folder_pair(base: str, added: str, base_dir: Path) -> bool:
    return all(is_folder(source_folder(part, base_dir)) for part in (base, added))


def _is_likely_pair(base: str, added: str, base_dir: Path) -> bool:
    return "/" in added or is_folder(source_folder(added, base_dir))


def missing(written: str, base_dir: Path) -> str | None:
    """Say what is wrong with a source that is not there, without fetching it."""
    base, added = split(written, base_dir)
    said = None if is_simulated(base) else _missing(base, base_dir, "model")
    if said is None and added is not None:
        said = _missing(added, base_dir, "adapter")
    return said


def _missing(written: str, base_dir: Path, what: str) -> str | None:
    folder = source_folder(written, base_dir)
    if is_folder(folder):
        return None
    article = "an" if what == "adapter" else "a"
    try:
        wanted = _hub_id(written, folder)
        if wanted is None:
            refuse_outside(folder)
            refuse_gguf(folder)
            return (
                f"expected {article} {what} folder, got {written!r}, which does not "
                "exist."
            )
        hub.look_up(wanted)
    except CheckpointError as error:
        return f"expected {article} {what}: {_neither(written, error)}"
    return None


def _find(written: str, base_dir: Path, what: str) -> tuple[Path, str | None]:
    """Return the folder meant, and the pinned id it was fetched by, if it was."""
    folder = source_folder(written, base_dir)
    wanted = _hub_id(written, folder)
    if wanted is None:
        refuse_outside(folder)
        if not folder.exists():
            raise CheckpointError(
                f"{folder}: does not exist. Give the folder of {what}, or a hub id as "
                "org/name or org/name@revision."
            )
        return folder, None
    try:
        found = hub.fetch(wanted)
    except HubError as error:
        raise HubError(_neither(written, error)) from error
    return found.folder, str(found.pinned)


def _hub_id(written: str, folder: Path) -> hub.HubId | None:
    if _may_look(folder) and folder.exists() and not written.startswith(hub.SCHEME):
        return None
    return hub.parse(written)


def _neither(written: str, error: CheckpointError) -> str:
    """A mistyped path looks like a hub id, so both are spoken of."""
    if written.startswith(hub.SCHEME):
        return str(error)
    return f"there is no folder {written!r}, and as a hub id: {error}"


def input_of(model: Model) -> Input:
    """Return what a recipe calls a model."""
    measured = tuple((k, one.fingerprint) for k, one in model.statistics.items())
    if model.adapter is None:
        return Checkpoint(model.fingerprint, measured)
    return Adapted(model.fingerprint, model.adapter.fingerprint, measured)


def plain_input(model: Model) -> Input:
    """Return what a recipe calls a model of which nothing measured is asked for."""
    return with_statistics(input_of(model), ())


def folders_of(models: Iterable[Model]) -> dict[str, str]:
    """Return fingerprint to folder, of models and their adapters.

    Of what was measured of them, it is fingerprint to file.
    """
    every = list(models)
    measured = [one for model in every for one in model.statistics.values()]
    parts = (*_parts(every), *measured)
    return {part.fingerprint: str(part.path) for part in parts}


def measured_of(
    models: Mapping[str, Model], tell: Callable[[StatisticsFile], str]
) -> dict[str, dict[str, str]]:
    """Return kind and source to what is told of each file of statistics."""
    out: dict[str, dict[str, str]] = {}
    for name, model in models.items():
        for kind, file in model.statistics.items():
            out.setdefault(kind, {})[name] = tell(file)
    return out


def origins_of(models: Iterable[Model]) -> dict[str, str]:
    """Return fingerprint to pinned hub id, of what came from a hub."""
    return {
        part.fingerprint: part.origin
        for part in _parts(models)
        if part.origin is not None
    }


def whereabouts(model: Model) -> str:
    """Return what to write to find a model again: folders, or commits on the hub."""
    return "+".join(part.origin or str(part.path) for part in _parts([model]))


def content_of(model: Model) -> str:
    """Return the name of a model's content, its adapter's included."""
    return "+".join(part.fingerprint for part in _parts([model]))


def _parts(models: Iterable[Model]) -> Iterator[Model | Adapter]:
    for model in models:
        yield model
        if model.adapter is not None:
            yield model.adapter


def open_sources(
    sources: Mapping[str, str],
    base_dir: Path,
    mistakes: Mistakes,
    *,
    key: str = "sources",
    cache_dir: Path | None = None,
    statistics: Statistics | None = None,
) -> dict[str, Model]:
    """Read every model, in order of their names, and what was measured of it."""
    models: dict[str, Model] = {}
    for name in sorted(sources):
        try:
            models[name] = open_source(
                sources[name], base_dir, cache_dir=cache_dir, unknown=mistakes.unknown
            )
        except (CheckpointError, OSError, RuntimeError) as error:
            mistakes.add(f"{key}.{name}", f"expected a model: {error}")
    for kind, files in (statistics or {}).items():
        for name, written in files.items():
            where = f"statistics.{kind}.{name}"
            if name not in sources:
                mistakes.add(where, f"expected one of the sources {sorted(sources)}.")
            if (model := models.get(name)) is None:
                continue
            file = source_folder(written, base_dir)
            try:
                refuse_outside(file)
                found = read_statistics(
                    file, kind, source=model.fingerprint, cache_dir=cache_dir
                )
            except CheckpointError as error:
                mistakes.add(where, f"expected a file of statistics: {error}")
            else:
                measured = {**model.statistics, kind: found}
                models[name] = replace(model, statistics=dict(sorted(measured.items())))
    warn_of_sources(models, mistakes, key=key)
    return models


def warn_of_sources(
    models: Mapping[str, Model], mistakes: Mistakes, *, key: str = "sources"
) -> None:
    """Note what must be seen of models that were read: also two that are one."""
    first: dict[str, str] = {}
    for name, model in models.items():
        if "float64" in element_types(model):  # more than a merge is computed in
            mistakes.warn(
                "", f"{name!r} stores float64; it is read and written as float32."
            )
        for said in model.remarks:
            mistakes.warn(f"{key}.{name}" if key else "", said)
        for said in model.notes:
            mistakes.tell(f"{key}.{name}" if key else "", said)
        same = first.setdefault(content_of(model), name)
        if same != name:
            mistakes.warn(
                key,
                f"{name!r} and {same!r} are one model: all their files are equal. "
                "Is one of the two paths the wrong one?",
            )


def common_layers(models: Mapping[str, Model]) -> int:
    """Return how many layers the models have."""
    return next((model.n_layers for model in models.values()), UNKNOWN_LAYERS)


_TYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}


def dtype_of(model: Model | None) -> str:
    """Return the element type that most of a model is stored in.

    Where that cannot be told it is what the configuration says, or float32.
    """
    config = {} if model is None else model.config
    said = config.get("dtype") or config.get("torch_dtype")
    found = {} if model is None else element_types(model)
    most = max(found, key=lambda name: found[name], default=said)
    return str(most) if most in DTYPES else "float32"


def element_types(model: Model) -> dict[str, int]:
    """Return the element types of a model's weights, and how many bytes are in each."""
    sizes: dict[str, int] = {}
    for name, info in model.tensors.items():
        if info.dtype in _TYPES and model.places[name].role != BUFFER:
            word = _TYPES[info.dtype]
            sizes[word] = sizes.get(word, 0) + info.nbytes
    return sizes


def kept_dtype(models: Mapping[str, Model], frame: str) -> str:
    """Return the element type of a merge of which none is said.

    That is the frame's; where a model holds several, each tensor keeps its own.

    Args:
        models: All that are merged.
        frame: Which of them gives the configuration.
    """
    if any(len(element_types(model)) > 1 for model in models.values()):
        return STORED
    return dtype_of(models.get(frame))
