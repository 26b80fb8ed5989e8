"""Joined projections of recurrent blocks: each finds the rows of its matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from evomerge.checkpoints import TensorInfo
from evomerge.checkpoints.configs.families import Sizes
from evomerge.checkpoints.layers.recurrent import recurrent_pieces

Shapes = Mapping[str, Sequence[int]]
SIZES = Sizes("qwen3_next", hidden=32, linear_key_heads=2)


def rows_of(suffix: str, shapes: Shapes) -> dict[str, tuple[int, int, int | None]]:
    layer = {
        name: TensorInfo(name, "F32", tuple(shape), Path("w"), 0, 0)
        for name, shape in shapes.items()
    }
    pieces = recurrent_pieces(suffix, layer, SIZES)
    return {p.name.rsplit(".", 1)[0]: (p.groups, p.start, p.stop) for p in pieces}


def test_mamba_holds_its_input_before_its_gate() -> None:
    shapes = {
        "mixer.in_proj.weight": (128, 32),
        "mixer.conv1d.weight": (64, 1, 4),
        "mixer.A_log": (64, 8),
        "mixer.x_proj.weight": (20, 64),
    }
    assert rows_of("mixer.in_proj.weight", shapes) == {
        "mixer.in_proj_x": (1, 0, 64),
        "mixer.in_proj_z": (1, 64, 128),
    }
    assert rows_of("mixer.x_proj.weight", shapes) == {
        "mixer.x_proj_dt": (1, 0, 4),
        "mixer.x_proj_b": (1, 4, 12),
        "mixer.x_proj_c": (1, 12, 20),
    }


@pytest.mark.parametrize("heads", [8, 16])
def test_mamba_2_holds_gate_input_states_and_steps(heads: int) -> None:
    # With 16 heads there are twice as many rows as are convolved, as Mamba has.
    shapes = {
        "mamba.in_proj.weight": (64 + 80 + heads, 32),
        "mamba.conv1d.weight": (80, 1, 4),
        "mamba.dt_bias": (heads,),
    }
    assert rows_of("mamba.in_proj.weight", shapes) == {
        "mamba.in_proj_z": (1, 0, 64),
        "mamba.in_proj_x": (1, 64, 128),
        "mamba.in_proj_b": (1, 128, 136),
        "mamba.in_proj_c": (1, 136, 144),
        "mamba.in_proj_dt": (1, 144, 144 + heads),
    }


def test_gated_delta_networks_are_cut_alike_joined_or_split() -> None:
    # Two key heads of 8, four value heads of 4.
    joined = {
        "in_proj_qkvz.weight": (64, 32),
        "in_proj_ba.weight": (8, 32),
        "conv1d.weight": (48, 1, 4),
    }
    split = {
        "in_proj_qkv.weight": (48, 32),
        "in_proj_z.weight": (16, 32),
        "conv1d.weight": (48, 1, 4),
    }
    assert rows_of("in_proj_qkvz.weight", joined) == {
        "in_proj_q": (2, 0, 8),
        "in_proj_k": (2, 8, 16),
        "in_proj_v": (2, 16, 24),
        "in_proj_z": (2, 24, 32),
    }
    assert rows_of("in_proj_ba.weight", joined) == {
        "in_proj_b": (2, 0, 2),
        "in_proj_a": (2, 2, 4),
    }
    assert rows_of("in_proj_qkv.weight", split) == {
        "in_proj_q": (1, 0, 16),
        "in_proj_k": (1, 16, 32),
        "in_proj_v": (1, 32, 48),
    }


def test_a_short_convolution_has_three_parts_of_one_size() -> None:
    shapes = {"conv.in_proj.weight": (96, 32), "conv.conv.weight": (32, 1, 3)}
    assert rows_of("conv.in_proj.weight", shapes) == {
        "conv.in_proj_b": (1, 0, 32),
        "conv.in_proj_c": (1, 32, 64),
        "conv.in_proj_x": (1, 64, 96),
    }


@pytest.mark.parametrize(
    "shapes",
    [
        {"m.in_proj.weight": (100, 32)},
        {"m.in_proj.weight": (100, 32), "m.conv1d.weight": (64, 1, 4)},
        {"m.q_proj.weight": (64, 32), "m.conv1d.weight": (64, 1, 4)},
    ],
)
def test_what_is_no_such_projection_is_merged_as_it_is(shapes: Shapes) -> None:
    assert rows_of(next(iter(shapes)), shapes) == {}
