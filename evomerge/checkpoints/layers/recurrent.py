"""Joined projections of recurrent blocks and short convolutions, cut into matrices.

Such a block brings its input to several things at once: what is convolved, a gate, and
steps of time. How many rows each of them has follows from the block's other tensors. A
model that stores them apart, as Qwen3.5 does and Qwen3-Next does not, is merged alike.
"""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.checkpoints.configs.families import Sizes
from evomerge.checkpoints.header import TensorInfo
from evomerge.checkpoints.layers.pieces import Cut, Piece

_CONVOLUTIONS = ("conv1d", "conv")


def recurrent_pieces(
    suffix: str, layer: Mapping[str, TensorInfo], sizes: Sizes
) -> tuple[Piece, ...]:
    """Tell how a joined projection is cut; nothing if a tensor is none.

    Args:
        suffix: Its name within the layer.
        layer: All tensors of the layer, by their names within it.
        sizes: Of the model.
    """
    stem, _, leaf = suffix.rpartition(".")
    block, _, word = stem.rpartition(".")
    if leaf not in ("weight", "bias") or word not in _CUTS:
        return ()
    before = f"{block}." if block else ""
    convolved = next(
        (
            info.shape[0]
            for one in _CONVOLUTIONS
            if (info := layer.get(f"{before}{one}.weight"))
        ),
        0,
    )
    rows = layer[suffix].shape[0]
    cuts = _CUTS[word](rows, convolved, before, layer, sizes)
    return tuple(Piece(f"{before}{n}.{leaf}", None, False, *c) for n, c in cuts.items())


def _in_proj(
    rows: int, convolved: int, before: str, layer: Mapping[str, TensorInfo], _: Sizes
) -> Mapping[str, Cut]:
    """Cut as Mamba, Mamba 2 and LFM2 do."""
    steps = layer.get(f"{before}dt_bias")
    if not convolved:
        return {}
    if steps is None:
        if rows == 3 * convolved:
            each = convolved
            return _in_a_row(in_proj_b=each, in_proj_c=each, in_proj_x=each)
        same = rows == 2 * convolved
        return _in_a_row(in_proj_x=convolved, in_proj_z=convolved) if same else {}
    inner = rows - convolved - steps.shape[0]
    states = convolved - inner
    if inner < 1 or states < 2 or states % 2:
        return {}
    return _in_a_row(
        in_proj_z=inner,
        in_proj_x=inner,
        in_proj_b=states // 2,
        in_proj_c=states // 2,
        in_proj_dt=steps.shape[0],
    )


def _x_proj(
    rows: int, _: int, before: str, layer: Mapping[str, TensorInfo], __: Sizes
) -> Mapping[str, Cut]:
    """Cut what Mamba's steps and states are made of."""
    decay = layer.get(f"{before}A_log")
    states = decay.shape[1] if decay is not None and len(decay.shape) == 2 else 0
    rank = rows - 2 * states
    if not states or rank < 1:
        return {}
    return _in_a_row(x_proj_dt=rank, x_proj_b=states, x_proj_c=states)


def _qkv(
    rows: int,
    convolved: int,
    before: str,
    layer: Mapping[str, TensorInfo],
    _: Sizes,
) -> Mapping[str, Cut]:
    """Cut queries, keys and values of a gated delta network: all of each in a row."""
    gate = layer.get(f"{before}in_proj_z.weight")
    values = 0 if gate is None else gate.shape[0]
    keys = (rows - values) // 2
    if rows != convolved or not values or keys < 1 or 2 * keys + values != rows:
        return {}
    return _in_a_row(in_proj_q=keys, in_proj_k=keys, in_proj_v=values)


def _qkvz(
    rows: int, convolved: int, _: str, __: Mapping[str, TensorInfo], sizes: Sizes
) -> Mapping[str, Cut]:
    """Cut queries, keys, values and gates: of one key head after another."""
    groups, values = sizes.linear_key_heads, rows - convolved
    keys = (convolved - values) // 2
    if not groups or not convolved or min(keys, values) < 1 or rows % groups:
        return {}
    key, value = keys // groups, values // groups
    return _by_group(
        groups, in_proj_q=key, in_proj_k=key, in_proj_v=value, in_proj_z=value
    )


def _ba(
    rows: int, _: int, __: str, ___: Mapping[str, TensorInfo], sizes: Sizes
) -> Mapping[str, Cut]:
    """Cut what steps and decays are made of: of one key head after another."""
    groups = sizes.linear_key_heads
    if not groups or rows % (2 * groups):
        return {}
    each = rows // (2 * groups)
    return _by_group(groups, in_proj_b=each, in_proj_a=each)


def _in_a_row(**rows: int) -> Mapping[str, Cut]:
    return _by_group(1, **rows)


def _by_group(groups: int, **rows: int) -> Mapping[str, Cut]:
    cuts: dict[str, Cut] = {}
    first = 0
    for name, n in rows.items():
        cuts[name] = (groups, first, first + n)
        first += n
    return cuts


_CUTS = {
    "in_proj": _in_proj,
    "x_proj": _x_proj,
    "in_proj_qkv": _qkv,
    "in_proj_qkvz": _qkvz,
    "in_proj_ba": _ba,
}
