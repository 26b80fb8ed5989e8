"""A model folder as a value: everything but the weights themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from evomerge.checkpoints.configs.families import (
    layer_count_key,
    listed_layers,
    read_sizes,
)
from evomerge.checkpoints.configs.layer_types import LayerType, read_layer_types
from evomerge.checkpoints.configs.nested import decoder_config
from evomerge.checkpoints.configs.stack_counts import read_stack_counts
from evomerge.checkpoints.configs.stated import (
    stated_architecture,
    stated_count,
    stated_vocabulary,
)
from evomerge.checkpoints.documents import read_json, refuse_links_out
from evomerge.checkpoints.fingerprint import fingerprint
from evomerge.checkpoints.header import ElementTypeError, TensorInfo
from evomerge.checkpoints.layers.head import is_tied
from evomerge.checkpoints.layers.layout import Layout, Place, read_layout
from evomerge.checkpoints.layers.names import is_recomputed
from evomerge.checkpoints.layers.pieces import is_cut_as_ever
from evomerge.checkpoints.tokenizers.tokenizer import (
    RARE_FILES,
    TOKENIZER_FILES,
    TokenizerFacts,
    read_tokenizer,
    template_files,
    tokenizer_digest,
)
from evomerge.checkpoints.weights import (
    read_shards,
    refuse_gguf,
    refuse_quantised,
    say_quantised,
    without_left_over,
)
from evomerge.core.digest import digest
from evomerge.errors import CheckpointError

if TYPE_CHECKING:
    from evomerge.checkpoints.adapters.adapter import Adapter
    from evomerge.checkpoints.statistics import StatisticsFile

CONFIG = "config.json"
GENERATION = "generation_config.json"
_SHARED_LAYERS = "num_hidden_groups"
"""Key for the number of layers that are stored, where each runs several times."""


@dataclass(frozen=True)
class Model:
    """A checked model folder.

    Attributes:
        path: The folder.
        config: Its ``config.json``.
        tensors: Name to stored tensor; a tied head is not listed.
        fingerprint: Name of its content: weights, configuration and tokenizer, and how
            tensors are cut that were merged as one before.
        layout: What its parts are called.
        places: Tensor name to where it belongs; the head's also where it is tied.
        layer_types: What each layer computes with its weights.
        tied: The output head is the embedding.
        architecture: Class name, for example ``LlamaForCausalLM``.
        vocab_size: Rows of the embedding, as configured.
        tokenizer_digest: Name of the tokenizer as it is written; empty without one.
        origin: The hub id and commit it was fetched by, or the name of a made-up
            model; None for a folder that was named as such.
        remarks: What must be seen of the folder although nothing is refused.
        notes: What is good to know of it, and no reason for doubt.
        adapter: The low-rank adapter that goes with it, if any; everything else is
            said of the folder itself.
        statistics: Kind to what was measured of it, in order of the kinds.
    """

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    fingerprint: str
    layout: Layout
    places: Mapping[str, Place]
    layer_types: tuple[LayerType, ...]
    tied: bool
    architecture: str
    vocab_size: int
    tokenizer_digest: str
    origin: str | None = None
    remarks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    adapter: Adapter | None = None
    statistics: Mapping[str, StatisticsFile] = field(default_factory=dict)

    @property
    def n_layers(self) -> int:
        """Layers of the text decoder."""
        return len(self.layer_types)

    @cached_property
    def decoder(self) -> Mapping[str, Any]:
        """What the configuration says of the text decoder, by itself."""
        return MappingProxyType(decoder_config(self.config))

    @cached_property
    def beside(self) -> Mapping[str, tuple[str, ...]]:
        """Kind of part beside the text decoder to the names of its tensors."""
        found: dict[str, tuple[str, ...]] = {}
        for name, place in self.places.items():
            if place.section == "beside" and name in self.tensors:
                found[place.role] = (*found.get(place.role, ()), name)
        return MappingProxyType(found)

    @cached_property
    def tokenizer(self) -> TokenizerFacts | None:
        """What the tokenizer does; None without one. Read when first asked for."""
        return read_tokenizer(self.path)

    @property
    def vocabulary(self) -> str:
        """Name of the map from token to id: the tokenizer's where that is not known."""
        facts = self.tokenizer
        return facts.rows if facts and facts.rows else self.tokenizer_digest

    @cached_property
    def size_bytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def read_model(
    path: str | Path,
    *,
    cache_dir: str | Path | None = None,
    unknown: bool = False,
) -> Model:
    """Read and check a model folder without loading its weights.

    Args:
        path: A folder of safetensors with ``config.json``.
        cache_dir: Where fingerprints are remembered between processes, if anywhere.
        unknown: Tensors that no rule covers are no error; a merge must speak of them.

    Raises:
        CheckpointError: The folder is missing, incomplete, corrupt, holds only pickle
            files, or is of an architecture that is not supported.
    """
    folder = Path(path)
    refuse_gguf(folder)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise CheckpointError(
            f"{folder}: {what}. Give the folder of a model saved by transformers."
        )
    copied = (*TOKENIZER_FILES, *RARE_FILES, *template_files(folder))
    refuse_links_out(folder, (CONFIG, GENERATION, *copied))
    file = folder / CONFIG
    config = read_json(file)
    stored = _read_weights(folder, config)
    shards = {info.file.relative_to(folder).as_posix() for info in stored.values()}
    config, said = without_left_over(config)
    decoder = decoder_config(config)
    n_layers = listed_layers(decoder)
    is_shared = type(decoder.get(_SHARED_LAYERS)) is int
    if is_shared:
        n_layers = int(decoder[_SHARED_LAYERS])
    elif n_layers is None:
        n_layers = stated_count(file, config, decoder, layer_count_key(decoder))
    vocab_size = stated_vocabulary(file, config, decoder)
    tensors = {n: t for n, t in stored.items() if not _is_made_anew(t)}
    try:
        layout, places = read_layout(
            tensors,
            read_stack_counts(config, n_layers),
            vocab_size,
            read_sizes(decoder),
            unknown=unknown,
        )
        types = _layer_types(
            decoder, layout, places, shared=n_layers if is_shared else None
        )
    except ElementTypeError as error:
        raise say_quantised(config, error) from error
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    architecture = stated_architecture(file, config)
    if layout.head not in tensors and architecture.endswith("Model"):
        layout = replace(layout, is_headless=True)  # a class of hidden states
    tied = is_tied(folder, config, tensors, layout)
    if tied:
        tensors.pop(layout.head, None)
    others = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    content = fingerprint(
        folder,
        [*shards, CONFIG, *others],
        None if cache_dir is None else Path(cache_dir),
    )
    return Model(
        path=folder,
        config=MappingProxyType(config),
        tensors=MappingProxyType(tensors),
        fingerprint=_with_cuts(content, places, str(decoder.get("model_type", ""))),
        layout=layout,
        places=MappingProxyType(places),
        layer_types=types,
        tied=tied,
        architecture=architecture,
        vocab_size=vocab_size,
        tokenizer_digest=tokenizer_digest(folder),
        remarks=said,
        notes=tuple(_carried(places, tensors)),
    )


def _with_cuts(content: str, places: Mapping[str, Place], family: str) -> str:
    """Name content together with how it is cut, where that was not always so.

    The same recipe of the same files then has another name than it had when such
    tensors were merged as one: no outcome of then is taken for one of now.
    """
    cuts = {
        name: [astuple(piece) for piece in place.pieces]
        for name, place in places.items()
        if not is_cut_as_ever(place.suffix, place.pieces, family)
    }
    return digest([content, cuts]) if cuts else content


def _carried(
    places: Mapping[str, Place], tensors: Mapping[str, TensorInfo]
) -> Iterator[str]:
    """Say which parts a model has beside its text decoder."""
    kinds = [
        p.role for n, p in places.items() if p.section == "beside" and n in tensors
    ]
    if found := Counter(kinds):
        parts = ", ".join(f"{kind} ({n} tensors)" for kind, n in sorted(found.items()))
        yield (
            f"has parts beside its text decoder: {parts}. A merge takes over those of "
            "its frame as they are, unless `parts` says otherwise."
        )


def _read_weights(folder: Path, config: Mapping[str, Any]) -> dict[str, TensorInfo]:
    try:
        stored = read_shards(folder)
    except ElementTypeError as error:
        raise say_quantised(config, error) from error
    refuse_quantised(folder, config, stored)
    return stored


def _layer_types(
    decoder: Mapping[str, Any],
    layout: Layout,
    places: Mapping[str, Place],
    *,
    shared: int | None,
) -> tuple[LayerType, ...]:
    """Tell the type of each layer.

    Of several stacks, and of layers that a model runs through several times, no list
    speaks: they are told by their stack.
    """
    n_layers = 1 + max(p.layer for p in places.values() if p.layer is not None)
    mixtures = _having("expert", places.values(), n_layers)
    if layout.further or shared is not None:
        stacks = (layout.stack_of(layer)[1] for layer in range(n_layers))
        return tuple(
            LayerType(mixture=one, stack=stack)
            for one, stack in zip(mixtures, stacks, strict=True)
        )
    return read_layer_types(
        decoder, mixtures, _having("state", places.values(), n_layers)
    )


def _is_made_anew(info: TensorInfo) -> bool:
    """Tell whether every loader makes a tensor anew; no table with an order of its own.

    Position numbers that do not count from zero are such a table (MRA).
    """
    if not is_recomputed(info.name, info.shape):
        return False
    if info.dtype != "I64" or not info.name.endswith("position_ids"):
        return True
    with info.file.open("rb") as file:
        file.seek(info.offset)
        numbers = memoryview(file.read(info.nbytes)).cast("q")
    return all(n == i % info.shape[-1] for i, n in enumerate(numbers))


def _having(role: str, places: Iterable[Place], n_layers: int) -> list[bool]:
    """Tell of each layer whether it stores tensors of a role."""
    layers = {place.layer for place in places if place.role == role}
    return [layer in layers for layer in range(n_layers)]
