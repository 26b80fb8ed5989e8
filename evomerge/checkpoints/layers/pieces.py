"""Tensors that hold several matrices, where a model is stored or once it is loaded.

Some families store queries, keys and values as one tensor, gate and up projections as
one, or all experts of a layer as one. A threshold, a norm, an angle or a singular
vector of the whole would mix what are separate matrices, so each piece is merged by
itself, under the name its tensor has where the same model is stored split.

The other way round, transformers (from version 5) puts the matrices of all experts of a
layer together when it loads a model, and calls some tensors otherwise than they are
stored. mergekit merges what transformers holds, by the names it has there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from evomerge.checkpoints.configs.families import Sizes
from evomerge.errors import CheckpointError

_GATE_UP = ("gate_up_proj", "input_linear")
_DOWN = {"output_linear": "down_proj"}
_IN_A_ROW = ("qkv_proj", "c_attn", "Wqkv", "W_pack", "qkv")
_MIXED = frozenset({"codegen", "gpt_bigcode"})
"""Families that use such a name for rows in another order."""
_BY_GROUP = ("wqkv",)
"""Names of tensors that hold, for each key-value head, its queries, its key and its
value: those of InternLM2."""
_BY_HEAD = frozenset({"gpt_neox", "bloom"})
"""Families whose ``query_key_value`` holds q, k and v of head 0, then of head 1, ..."""
_HEAD_BY_HEAD = frozenset({"minimax", "minimax_text_01", "minimax_m1"})
"""Families whose ``qkv_proj`` does, that of their linear attention."""
_OF_ONE_HEIGHT = {
    "gqkv_proj": ("gate_proj", "q_proj", "k_proj", "v_proj"),
    "up_gate_proj": ("up_proj", "gate_proj"),
}
"""What tensors hold in a row and of one height: those of HRM, and of GTE."""
HELD_APART = frozenset({"hrm_text", "gte", "nomic_bert", "jina_embeddings_v3"})
"""Families whose joined tensors transformers cuts when it loads a model."""
_ALL_IN_A_ROW = frozenset({"chatglm"})
"""Families whose ``query_key_value`` holds all queries, then keys, then values."""
_GATED = frozenset(
    {("chatglm", "dense_h_to_4h"), ("aria_text", "fc1"), ("openelm", "proj_1")}
)
"""Family and name of further tensors that hold gate and up projections."""
_BY_ROW = frozenset({"gpt_oss"})
"""Families whose ``gate_up_proj`` alternates a row of gate and a row of up."""

Cut = tuple[int, int, int | None]
"""Groups, first row and row after the last in each group."""

_IN_ONE = re.compile(r"(^|\.)experts\.mlp\.[wv][12]$")
"""Matrices of all experts, one below the other: those of DBRX, whose ``w2`` are stored
as [in, out]."""
_EXPERT = re.compile(r"(.*\bexperts)\.(\d+)\.(\w+)\.weight")
_MEMBERS = {
    "gate_proj": ("gate_up_proj", 0),
    "up_proj": ("gate_up_proj", 1),
    "down_proj": ("down_proj", 0),
    "w1": ("gate_up_proj", 0),
    "w3": ("gate_up_proj", 1),
    "w2": ("down_proj", 0),
}
"""Matrix of an expert, to the tensor it is part of and its place in each expert's."""
_APART = frozenset({"afmoe"})
"""Families of which mergekit lists the experts one by one."""
_MIXTRAL = (("block_sparse_moe.", "mlp."),)
_GRANITE = (
    ("block_sparse_moe.input_linear.weight", "block_sparse_moe.experts.gate_up_proj"),
    ("block_sparse_moe.output_linear.weight", "block_sparse_moe.experts.down_proj"),
    ("router.layer.weight", "router.weight"),
)
_RENAMED: Mapping[str, tuple[tuple[str, str], ...]] = {
    **dict.fromkeys(("mixtral", "minimax", "minimax_m2"), _MIXTRAL),
    "phimoe": (*_MIXTRAL, ("mlp.gate.weight", "mlp.router.weight")),
    **dict.fromkeys(("granitemoe", "granitemoeshared"), _GRANITE),
}
"""Family to parts of stored names, and what transformers has instead."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a stored tensor that is merged by itself.

    Taken in this order: one expert of a 3-D tensor, the transpose, then in each of
    ``groups`` equal groups of rows those from ``start`` to ``stop``.

    Attributes:
        name: What its tensor is called where the model is stored split, within the
            layer.
        expert: Index along the first axis of a tensor that holds all experts.
        transposed: Stored as [in, out]; merged, like any other, as [out, in].
        stop: None means to the end of the group.
        turned: Those rows are stored as [in, out] and turned once they are taken.
    """

    name: str
    expert: int | None = None
    transposed: bool = False
    groups: int = 1
    start: int = 0
    stop: int | None = None
    turned: bool = False


def pieces_of(
    suffix: str, shape: Sequence[int], sizes: Sizes, *, transposed: bool = False
) -> tuple[Piece, ...]:
    """Tell how a tensor of a layer is cut; nothing if it is merged as it is stored.

    Args:
        suffix: Its name within the layer.
        shape: As stored.
        sizes: Of the model.
        transposed: It is stored as [in, out].

    Raises:
        CheckpointError: Its rows are not those of the heads the configuration tells of.
    """
    stem, word, leaf = _split(suffix)
    if len(shape) == 2 and sizes.experts and _IN_ONE.search(suffix):
        rows = shape[0] // sizes.experts
        named = stem.replace("experts.", "experts.{}.") + word
        turned = word == "w2"
        return tuple(
            Piece(named.format(e), None, False, 1, e * rows, (e + 1) * rows, turned)
            for e in range(sizes.experts)
        )
    experts = _experts(suffix, shape, sizes)
    rows = shape[-1] if transposed else shape[-2] if len(shape) > 1 else shape[0]
    if experts and len(shape) == 2:
        rows = shape[1]  # biases, one row for each expert
    cuts = _cuts(suffix, word, rows, sizes)
    if experts:
        names = {name: f"{stem}{{}}.{name}{leaf or '.weight'}" for name in cuts}
        if "experts" not in stem:
            names = {name: f"{stem}experts.{{}}.{name}.weight" for name in cuts}
        return tuple(
            Piece(names[name].format(e), e, transposed, *cut)
            for e in range(shape[0])
            for name, cut in cuts.items()
        )
    if len(cuts) == 1 and not transposed:
        return ()
    return tuple(
        Piece(f"{stem}{name}{leaf}", None, transposed, *cut)
        for name, cut in cuts.items()
    )


def is_cut_as_ever(suffix: str, pieces: Sequence[Piece], family: str) -> bool:
    """Tell whether a tensor was cut into these pieces since outcomes are recorded.

    What was merged as one before has other weights since, by the same recipe.

    Args:
        suffix: Its name within the layer.
        pieces: What it is merged by.
        family: The ``model_type`` of the configuration.
    """
    word = _split(suffix)[1]
    if len(pieces) < 2 or pieces[0].expert is not None:
        return True
    if word in (*_GATE_UP, *_IN_A_ROW):
        return word != "qkv_proj" or family not in _HEAD_BY_HEAD
    return word == "query_key_value" and family in _BY_HEAD


def _cuts(suffix: str, word: str, rows: int, sizes: Sizes) -> Mapping[str, Cut]:
    if (word in _GATE_UP or (sizes.family, word) in _GATED) and rows % 2 == 0:
        if sizes.family in _BY_ROW:
            half = rows // 2
            return {"gate_proj": (half, 0, 1), "up_proj": (half, 1, 2)}
        return {"gate_proj": (1, 0, rows // 2), "up_proj": (1, rows // 2, rows)}
    if word == "qkv_proj" and sizes.family in _HEAD_BY_HEAD:
        return _heads_in_turn(suffix, rows, sizes)
    if word in _IN_A_ROW and sizes.family not in _MIXED and sizes.heads:
        return _heads_in_a_row(suffix, rows, sizes)
    if (names := _OF_ONE_HEIGHT.get(word)) and rows % len(names) == 0:
        each = rows // len(names)
        return {name: (1, i * each, (i + 1) * each) for i, name in enumerate(names)}
    if word in _BY_GROUP:
        return _heads_by_group(suffix, rows, sizes)
    if word == "query_key_value" and sizes.family in _ALL_IN_A_ROW:
        return _heads_in_a_row(suffix, rows, sizes)
    if word == "query_key_value" and sizes.family in _BY_HEAD:
        heads, head = sizes.heads, sizes.head
        if heads and head and rows == 3 * heads * head:
            return _heads_in_turn(suffix, rows, sizes)
    return {_DOWN.get(word, word): (1, 0, None)}


def _heads_in_a_row(suffix: str, rows: int, sizes: Sizes) -> Mapping[str, Cut]:
    heads, head = sizes.heads, sizes.head
    if heads and head:
        for pairs in (sizes.key_value_heads or heads, heads):
            q, kv = heads * head, pairs * head
            if rows == q + 2 * kv:
                return {
                    "q_proj": (1, 0, q),
                    "k_proj": (1, q, q + kv),
                    "v_proj": (1, q + kv, rows),
                }
    raise _other_heads(suffix, rows, sizes)


def _heads_in_turn(suffix: str, rows: int, sizes: Sizes) -> Mapping[str, Cut]:
    heads, head = sizes.heads, sizes.head
    if heads and head and rows == 3 * heads * head:
        names = ("q_proj", "k_proj", "v_proj")
        return {n: (heads, i * head, (i + 1) * head) for i, n in enumerate(names)}
    raise _other_heads(suffix, rows, sizes)


def _heads_by_group(suffix: str, rows: int, sizes: Sizes) -> Mapping[str, Cut]:
    heads, head, pairs = sizes.heads, sizes.head, sizes.key_value_heads
    if heads and head and pairs and rows == (heads + 2 * pairs) * head:
        q = heads // pairs * head
        return {
            "q_proj": (pairs, 0, q),
            "k_proj": (pairs, q, q + head),
            "v_proj": (pairs, q + head, q + 2 * head),
        }
    raise _other_heads(suffix, rows, sizes)


def _other_heads(suffix: str, rows: int, sizes: Sizes) -> CheckpointError:
    heads, head = sizes.heads, sizes.head
    return CheckpointError(
        f"Tensor {suffix!r} has {rows} rows for queries, keys and values, which is not "
        f"what {heads} heads and {sizes.key_value_heads} key-value heads of {head} "
        "make. The configuration belongs to another model, or the family is not "
        "supported."
    )


def _split(suffix: str) -> tuple[str, str, str]:
    """Cut a name into what stands before its last word, the word, and its ending."""
    words = suffix.split(".")
    leaf = f".{words.pop()}" if words[-1] in ("weight", "bias") else ""
    word = words.pop() if words else ""
    if not leaf and word.endswith("_bias"):
        word, leaf = word.removesuffix("_bias"), ".bias"
    return "".join(f"{w}." for w in words), word, leaf


def _experts(suffix: str, shape: Sequence[int], sizes: Sizes) -> bool:
    if len(shape) == 3:
        return True
    biases = len(shape) == 2 and suffix.endswith("_bias")
    return biases and shape[0] == sizes.experts


def called(name: str, family: str) -> str:
    """Return what transformers calls a stored tensor, or the one it becomes part of.

    Args:
        name: As stored, with or without the layer.
        family: The ``model_type`` of the configuration.
    """
    for stored, other in _RENAMED.get(family, ()):
        name = name.replace(stored, other)
    match = _EXPERT.fullmatch(name)
    if match is None or match[3] not in _MEMBERS or family in _APART:
        return name
    return f"{match[1]}.{_MEMBERS[match[3]][0]}"


def together(names: Iterable[str], family: str) -> Mapping[str, tuple[str, ...]]:
    """Find the tensors of a layer that are held as one.

    Args:
        names: Of its tensors, within it.
        family: The ``model_type`` of the configuration.

    Returns:
        What the whole is called, to its members: those of the first expert first, its
        gate before its up projection.
    """
    found: dict[str, list[tuple[int, int, str]]] = {}
    for name in names:
        match = _EXPERT.fullmatch(name)
        if match is not None and match[3] in _MEMBERS and family not in _APART:
            place = int(match[2]), _MEMBERS[match[3]][1], name
            found.setdefault(called(name, family), []).append(place)
    return {
        whole: tuple(name for *_, name in sorted(members))
        for whole, members in found.items()
    }
