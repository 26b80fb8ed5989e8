"""Where each tensor of a model belongs, and what it is for.

Nothing here is a list of models: the layers are the pattern of names that repeats, the
embedding is the matrix with a row for each token, and roles follow from words, shapes
and the sizes in ``config.json``. What is not understood is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from evomerge.checkpoints.configs.families import Sizes
from evomerge.checkpoints.configs.stack_counts import StackCounts, side_of
from evomerge.checkpoints.header import ElementTypeError, TensorInfo
from evomerge.checkpoints.layers.names import (
    BUFFER,
    experts_transposed,
    is_recomputed,
    is_transposed,
    role_in_layer,
    role_outside,
)
from evomerge.checkpoints.layers.pieces import Piece, pieces_of
from evomerge.checkpoints.layers.recurrent import recurrent_pieces
from evomerge.checkpoints.layers.stack import Stack, find_stack
from evomerge.core.operators.catalogue import UNKNOWN
from evomerge.errors import CheckpointError

Section = Literal["embed", "layer", "head", "beside"]

EMBED_WEIGHT = "model.embed_tokens.weight"
HEAD_WEIGHT = "lm_head.weight"
"""What transformers calls the output head of most families."""

_EMBED = re.compile(
    r"embed_tokens|wte|word_embeddings?|embed_in|tok_embeddings|embeddings?|shared"
)
_HEAD = re.compile(
    r"lm_head|embed_out|output(_layer|_projection)?|head|unembed|decoder"
)
_LISTED_HEAD = re.compile(r"(.*\.)?lm_head\.linear\.weight")
"""The head of old Phi, whose norm bears its name too."""
_POSITIONS = re.compile(r"wpe|.*pos.*")
_OF_POSITIONS = re.compile(r"(.*\.)?position_embeddings\.[^.]+\.weight")
_WEIGHTS = ("weight", "bias")
_MATRICES = frozenset({"attn", "mlp", "expert", "bias"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a model a tensor belongs.

    Attributes:
        section: ``embed``, ``layer``, ``head`` (final norm and output head) or
            ``beside`` (no part of the text decoder).
        layer: Index of its layer; None outside the layers.
        role: One of ``core.catalogue.ROLES``, or ``BUFFER``; beside the decoder the
            kind of part.
        suffix: Its name within the layer; the whole name outside the layers.
        pieces: What it is merged by; nothing if it is merged as it is stored.
    """

    section: Section
    layer: int | None
    role: str
    suffix: str
    pieces: tuple[Piece, ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """What a model calls its parts.

    Attributes:
        embed: Name of the token embedding.
        head: Name of the output head; of a tied one, what it would be called.
        layers: What stands before a layer's number, with the dot; of several stacks,
            before those of the first.
        is_headless: Nothing gives tokens: a classifier, or a model of hidden states.
        further: First layer of each further stack, to what stands before its layers'
            numbers: an encoder-decoder's decoder. Its own numbers begin with 0 again.
    """

    embed: str
    head: str
    layers: str
    is_headless: bool = False
    further: tuple[tuple[int, str], ...] = ()

    @property
    def root(self) -> str:
        """What all names of the text decoder begin with, but perhaps the head's."""
        if self.further:
            stacks = [self.layers, *(prefix for _, prefix in self.further)]
            words = zip(*(prefix.split(".") for prefix in stacks), strict=False)
            common = takewhile(lambda same: len(set(same)) == 1, words)
            return "".join(f"{same[0]}." for same in common)
        return self.layers[: self.layers[:-1].rfind(".") + 1]

    def stack_of(self, layer: int) -> tuple[int, str]:
        """Return the first layer of a layer's stack, and what names it has."""
        stacks = ((0, self.layers), *self.further)
        return max(stack for stack in stacks if stack[0] <= layer)

    def name_in(self, other: Layout, name: str) -> str:
        """Return what another model calls a tensor outside the layers."""
        if name == self.embed:
            return other.embed
        head = self.head.removesuffix("weight")
        if name.startswith(head):
            return other.head.removesuffix("weight") + name[len(head) :]
        if name.startswith(self.root) and self.root != other.root:
            return other.root + name[len(self.root) :]
        return name

    def full_name(self, where: int | str, name: str) -> str:
        """Return a tensor's name in the model: those of layers are numbered."""
        if not isinstance(where, int):
            return name
        first, prefix = self.stack_of(where)
        return f"{prefix}{where - first}.{name}"


def read_layout(
    tensors: Mapping[str, TensorInfo],
    counts: StackCounts,
    vocab_size: int,
    sizes: Sizes,
    *,
    unknown: bool = False,
) -> tuple[Layout, dict[str, Place]]:
    """Find the place of every tensor.

    Args:
        tensors: As stored, by name.
        counts: Layers of each stack, as configured.
        vocab_size: As configured.
        sizes: As configured.
        unknown: Tensors that no rule covers are no error, but have the role
            ``UNKNOWN``.

    Returns:
        The names of the parts, and each tensor's place; the head's even if none is
        stored.

    Raises:
        ElementTypeError: A weight holds no numbers that can be merged.
        CheckpointError: A tensor was not understood, or a part is missing.
    """
    stack = find_stack(tensors, counts)
    outside = {name: tensors[name] for name in stack.outside}
    embed, head = _ends(outside, vocab_size)
    places = {embed: Place("embed", None, "embed", embed)}
    is_headless = head is None and "classifier" in stack.beside.values()
    first, *further = stack.prefixes.items()
    layout = Layout(embed, head or HEAD_WEIGHT, first[1], is_headless, tuple(further))
    places[layout.head] = Place("head", None, "head", layout.head)
    for name, info in outside.items():
        if name not in places:
            places[name] = _outside(name, info, unknown=unknown)
    for layer in stack.layers:
        called = layout.stack_of(layer)[1] if further else ""
        is_encoder = side_of(called) == "encoder"
        own = (counts.encoder_sizes or sizes) if is_encoder else sizes
        own = own.of_layer(layer)
        places |= _layer(stack, layer, own, unknown=unknown, called=called)
    for name, kind in stack.beside.items():
        places[name] = Place("beside", None, kind, name)
    for name, info in tensors.items():
        place = places[name]
        if place.section != "beside" and place.role != BUFFER and not info.is_float:
            raise ElementTypeError.of(info.file, name, info.dtype)
    return layout, places


def _ends(outside: Mapping[str, TensorInfo], vocab_size: int) -> tuple[str, str | None]:
    """Find the token embedding and the head; None if no head is stored."""
    matrices = {
        name: info
        for name, info in outside.items()
        if len(info.shape) == 2
        and name.endswith(".weight")
        and not _is_of_positions(name)
    }
    heads = [
        name
        for name in matrices
        if _HEAD.fullmatch(_word(name)) or _LISTED_HEAD.fullmatch(name)
    ]
    embeds = [name for name in matrices if _EMBED.fullmatch(_word(name))]
    if not embeds:
        rows = [n for n, info in matrices.items() if info.shape[0] >= vocab_size]
        embeds = [name for name in rows if name not in heads]
    if len(embeds) > 1:
        # Further tables have few rows; an encoder may have an embedding of its own, and
        # older savers stored what both share once more under the name of each.
        tall = [name for name in embeds if matrices[name].shape[0] >= vocab_size]
        if len(tall) == 1 or all(map(_is_of_a_side, tall)):
            embeds = sorted(tall, key=_preference)[:1] or embeds
    if len(embeds) != 1 or len(heads) > 1:
        raise CheckpointError(
            f"expected one matrix of at least {vocab_size} rows for the token "
            f"embedding, such as {EMBED_WEIGHT!r}, and at most one for the output "
            f"head; found {embeds} and {heads}. The folder is incomplete or of a "
            "family that is not supported."
        )
    rows_found = matrices[embeds[0]].shape[0]
    if rows_found < vocab_size:
        raise CheckpointError(
            f"{embeds[0]} has {rows_found} rows, but config.json speaks of a "
            f"vocabulary of {vocab_size}. The folder is corrupt."
        )
    return embeds[0], heads[0] if heads else None


def _is_of_a_side(name: str) -> bool:
    return _word(name) == "shared" or side_of(name) is not None


def _preference(name: str) -> tuple[bool, bool, str]:
    """Order token embeddings: a shared one first, a decoder's before an encoder's."""
    return _word(name) != "shared", side_of(name) == "encoder", name


def _is_of_positions(name: str) -> bool:
    return bool(_POSITIONS.fullmatch(_word(name)) or _OF_POSITIONS.fullmatch(name))


def _outside(name: str, info: TensorInfo, *, unknown: bool) -> Place:
    word = _word(name)
    if is_recomputed(name, info.shape):
        return Place("head", None, BUFFER, name)
    if len(info.shape) == 2 and _is_of_positions(name):
        return Place("embed", None, "embed", name)
    role = role_outside(name, info.shape, is_float=info.is_float)
    role = role or _unknown(info, tolerated=unknown)
    before = role == "embed" or (role not in (BUFFER, "head") and "embed" in word)
    return Place("embed" if before else "head", None, role, name)


def _layer(
    stack: Stack, layer: int, sizes: Sizes, *, unknown: bool, called: str = ""
) -> dict[str, Place]:
    """Find the places of a layer's tensors; ``called``, its stack among several."""
    tensors = stack.layers[layer]
    transposed, experts = is_transposed(tensors), experts_transposed(tensors, sizes)
    out: dict[str, Place] = {}
    # Stacks may be called attentions and feed-forward blocks instead of layers (XLM).
    before = f"{called.split('.')[-2]}." if called else ""
    for suffix, info in tensors.items():
        name = f"{before}{suffix}"
        role = BUFFER if _is_table(info) else None
        role = role or role_in_layer(name, info.shape, sizes, is_float=info.is_float)
        role = role or _unknown(info, tolerated=unknown)
        pieces: tuple[Piece, ...] = ()
        if role in _MATRICES and not _is_one(role, info, sizes):
            turned = (False, False, transposed, experts)[len(info.shape)]
            if role == "bias":
                turned = False
            pieces = recurrent_pieces(suffix, tensors, sizes)
            pieces = pieces or pieces_of(suffix, info.shape, sizes, transposed=turned)
        out[info.name] = Place("layer", layer, role, suffix, pieces)
    return out


def _is_table(info: TensorInfo) -> bool:
    """Tell whether a tensor is a table of whole numbers, such as of experts by token.

    Packed weights are of narrower types.
    """
    leaf = info.name.rsplit(".", 1)[-1]
    return info.dtype == "I64" and len(info.shape) > 1 and leaf not in _WEIGHTS


def _is_one(role: str, info: TensorInfo, sizes: Sizes) -> bool:
    """Tell whether what looks like several matrices is one.

    It is written head by head, or as a convolution over one token.
    """
    by_head = role == "attn" and tuple(info.shape[1:]) == (sizes.heads, sizes.head)
    return by_head or (len(info.shape) == 3 and info.shape[2] == 1)


def _word(name: str) -> str:
    """Return the word before the ending, which says what a tensor is."""
    return name.split(".")[-2] if "." in name else name


def _unknown(info: TensorInfo, *, tolerated: bool) -> str:
    if tolerated and info.is_float:
        return UNKNOWN
    raise CheckpointError(
        f"tensor {info.name!r} of shape {list(info.shape)} and type {info.dtype} was "
        "not understood: expected attention or feed-forward matrices, experts with "
        "their router, norms and biases in layers, and around them an embedding, a "
        "final norm and an output head. Such a model is not supported, unless the file "
        "says `unknown: linear` or `unknown: from_base` of tensors that no rule covers."
    )
