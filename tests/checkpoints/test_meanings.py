"""What decides how equal weights compute, whatever notation a configuration has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from evomerge.checkpoints import compatibility, read_model, remarks
from evomerge.checkpoints.configs.families import FILE, family_of
from evomerge.checkpoints.configs.layer_types import read_layer_types, windows
from evomerge.checkpoints.configs.meanings import KINDS, Kind, Meaning, differences
from evomerge.testing.models import tiny_model

N = 12
FULL, SLIDING = "full_attention", "sliding_attention"
YARN = {"factor": 4.0, "original_max_position_embeddings": 1024}


def compared(
    one: dict[str, Any], other: dict[str, Any], *, same_depth: bool = True
) -> list[tuple[str, bool]]:
    meanings = [
        Meaning(name, config, read_layer_types(config, [False] * N))
        for name, config in (("a", one), ("b", other))
    ]
    found = differences(*meanings, same_depth=same_depth)
    return [(odd.kind, odd.is_doubt) for odd in found]


def family(name: str, **said: Any) -> dict[str, Any]:
    return {"model_type": name, **said}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (family("llama"), family("llama", rope_theta=10000, rope_scaling=None)),
        (
            family(
                "llama", rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2}
            ),
            family(
                "llama",
                rope_parameters={
                    "rope_type": "linear",
                    "factor": 2.0,
                    "rope_theta": 500000.0,
                },
            ),
        ),
        (
            family("qwen2", rope_theta=1e6, rope_scaling={"type": "yarn", **YARN}),
            family(
                "qwen2",
                rope_parameters={
                    "rope_type": "yarn",
                    **YARN,
                    "rope_theta": 1e6,
                    "beta_fast": 32,
                    "attention_factor": 1.138629436111989,
                },
            ),
        ),
        (
            family("llama", rope_scaling={"type": "linear", "factor": 1.0}),
            family("llama", rope_parameters={"rope_type": "default"}),
        ),
        (
            family("gpt_neox", rotary_pct=0.25, rotary_emb_base=10000),
            family("gpt_neox"),
        ),
        (
            family("gemma3_text", rope_theta=1e6, rope_local_base_freq=10000.0),
            family(
                "gemma3_text",
                rope_parameters={
                    FULL: {"rope_type": "default", "rope_theta": 1e6},
                    SLIDING: {"rope_type": "default", "rope_theta": 1e4},
                },
            ),
        ),
        (
            family("qwen2", use_sliding_window=False, sliding_window=131072),
            family("qwen2", layer_types=[FULL] * N, sliding_window=None),
        ),
        (
            family("gemma2", hidden_act="gelu", sliding_window=4096),
            family("gemma2", layer_types=[SLIDING, FULL] * (N // 2)),
        ),
        (family("smollm3"), family("smollm3", no_rope_layers=[1, 1, 1, 0] * (N // 4))),
        (family("llama"), family("llama", sliding_window=4096)),
        (family("gpt2"), family("gpt2", max_position_embeddings=1024)),
        (family("mixtral", num_experts_per_tok=2), family("mixtral")),
        (family("unheard", rope_theta=1e4), family("unheard", rope_theta=10000)),
    ],
)
def test_two_ways_of_saying_one_thing_are_equal(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert compared(one, other) == compared(other, one) == []


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        (family("llama"), family("llama", rope_theta=5e5), "rope"),
        (
            family("llama"),
            family("llama", rope_scaling={"rope_type": "dynamic", "factor": 2.0}),
            "rope",
        ),
        (
            family("qwen2", rope_scaling={"type": "yarn", **YARN}),
            family("qwen2", rope_scaling={"type": "yarn", **YARN, "factor": 8.0}),
            "rope",
        ),
        (
            family("phi3", rope_scaling={"type": "su", "long_factor": [1.0, 2.0]}),
            family("phi3", rope_scaling={"type": "longrope", "long_factor": [1.0, 3]}),
            "rope",
        ),
        (family("gpt_neox"), family("gpt_neox", rotary_pct=1.0), "rope"),
        (
            family("gemma3_text"),
            family("gemma3_text", rope_local_base_freq=5000.0),
            "rope",
        ),
        (
            family("gemma3_text"),
            family("gemma3_text", rope_scaling={"rope_type": "linear", "factor": 8.0}),
            "rope",
        ),
        (
            family("gpt_oss"),
            family("gpt_oss", rope_scaling={"rope_type": "default"}),
            "rope",
        ),
        (family("mistral"), family("mistral", sliding_window=None), "window"),
        (family("mistral"), family("mistral", sliding_window=1024), "window"),
        (family("gemma2"), family("gemma2", sliding_window=512), "window"),
        (
            family("qwen2"),
            family("qwen2", use_sliding_window=True, max_window_layers=3),
            "window",
        ),
        (
            family("gemma3_text"),
            family("gemma3_text", sliding_window_pattern=4),
            "layer_types",
        ),
        (family("smollm3"), family("smollm3", no_rope_layer_interval=3), "layer_types"),
        (family("llama"), family("llama", hidden_act="gelu"), "activation"),
        (family("gpt2"), family("gpt2", activation_function="relu"), "activation"),
        (family("gemma2"), family("gemma2", hidden_activation="gelu"), "activation"),
        (family("gemma2"), family("gemma2", attn_logit_softcapping=None), "soft_caps"),
        (family("gemma2"), family("gemma2", final_logit_softcapping=20.0), "soft_caps"),
        (family("gemma2"), family("gemma2", query_pre_attn_scalar=144), "scales"),
        (family("granite"), family("granite", residual_multiplier=0.22), "scales"),
        (family("granite"), family("granite", logits_scaling=8.0), "scales"),
        (family("qwen3_moe"), family("qwen3_moe", norm_topk_prob=True), "routing"),
        (family("mixtral"), family("mixtral", num_experts_per_tok=1), "routing"),
        (
            family("gpt_neox"),
            family("gpt_neox", use_parallel_residual=False),
            "other",
        ),
        (family("llama"), family("llama", rms_norm_eps=1e-5), "epsilon"),
        (family("llama"), family("llama", max_position_embeddings=9), "positions"),
        (family("new", rope_theta=1e4), family("new", rope_theta=2e4), "rope"),
        (
            family("new", hidden_act="silu"),
            family("new", hidden_act="relu"),
            "activation",
        ),
        (family("new", sliding_window=8), family("new", sliding_window=9), "window"),
    ],
)
def test_each_kind_of_difference_is_seen(
    one: dict[str, Any], other: dict[str, Any], kind: str
) -> None:
    assert compared(one, other) == compared(other, one) == [(kind, False)]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({"rope_theta": 5e5}, "rope"),
        ({"hidden_act": "silu"}, "activation"),
        ({"scale_emb": 12}, "scales"),
        ({"final_logit_softcapping": 30.0}, "soft_caps"),
    ],
)
def test_what_one_file_of_an_unknown_family_says_is_a_doubt(
    said: dict[str, Any], kind: str
) -> None:
    silent = family("new", rope_theta=5e5) if kind != "rope" else family("new")
    assert compared(silent, silent | said) == [(kind, True)]


def test_positions_that_are_rescaled_are_no_doubt_in_any_family() -> None:
    one = family("new", rope_theta=1e4)
    other = one | {"rope_scaling": {"type": "linear", "factor": 2.0}}
    assert compared(one, other) == [("rope", False)]


def test_layers_set_on_each_other_are_compared_with_those_of_the_frame() -> None:
    frame = family("gemma2", sliding_window=64)
    assert compared(frame, dict(frame), same_depth=False) == []
    other = family("gemma2", sliding_window=32)
    assert compared(frame, other, same_depth=False) == [("window", False)]
    whole = family("mistral", sliding_window=None)
    assert compared(whole, family("mistral"), same_depth=False) == [("window", False)]
    chunked = family("gemma2", layer_types=["chunked_attention"] * N)
    assert compared(frame, chunked, same_depth=False) == [("layer_types", False)]


def test_windows_are_read_where_the_family_reads_them() -> None:
    def seen(config: dict[str, Any]) -> tuple[int | None, ...]:
        return windows(config, read_layer_types(config, [False] * 3))

    assert seen(family("mistral", sliding_window=7)) == (7, 7, 7)
    assert seen(family("llama", sliding_window=7)) == (None, None, None)
    assert seen(family("gemma2", sliding_window=7)) == (7, None, 7)
    on = family("qwen3", use_sliding_window=True, sliding_window=7, max_window_layers=2)
    assert seen(on) == (None, None, 7)


def test_every_kind_that_may_be_allowed_says_what_it_does() -> None:
    assert set(get_args(Kind)) == set(KINDS)


def changed(folder: Path, **said: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | said))
    return folder


def test_an_allowed_difference_is_a_remark_that_names_both(tmp_path: Path) -> None:
    tiny_model(tmp_path / "a", n_layers=1)
    changed(tiny_model(tmp_path / "b", n_layers=1), hidden_act="gelu", rope_theta=5e5)
    models = {name: read_model(tmp_path / name) for name in "ab"}
    rope, activation = compatibility(models)
    assert rope == (
        "'b' has rotary positions with rope_theta 500000.0, but 'a' with 10000.0: "
        "equal weights would see other positions. To merge them all the same, say "
        "`allow: [rope]`."
    )
    assert activation.startswith("'b' has hidden_act 'gelu', but 'a' has 'silu'")
    assert remarks(models) == []
    assert compatibility(models, allow=["rope"]) == [activation]
    (said,) = remarks(models, allow=["rope"])
    assert said.endswith("equal weights would see other positions; it is allowed.")
    assert compatibility(models, allow=["rope", "activation"]) == []


def test_small_differences_are_remarks(tmp_path: Path) -> None:
    tiny_model(tmp_path / "a", n_layers=1)
    changed(
        tiny_model(tmp_path / "b", n_layers=1),
        rms_norm_eps=1e-6,
        max_position_embeddings=4096,
    )
    models = {name: read_model(tmp_path / name) for name in "ab"}
    assert compatibility(models) == []
    positions, epsilon = remarks(models)
    assert positions.startswith("'b' has max_position_embeddings 4096, but 'a' has 512")
    assert "rms_norm_eps 1e-06, but 'a' has 1e-05" in epsilon
    assert epsilon.endswith("the merge has what its frame has.")


def test_heads_of_a_default_size_are_compared_where_shapes_cannot_tell(
    tmp_path: Path,
) -> None:
    one = changed(tiny_model(tmp_path / "a", n_layers=1, hidden=64))
    other = changed(
        tiny_model(tmp_path / "b", n_layers=1, hidden=64),
        num_attention_heads=1,
        head_dim=64,
    )
    found = compatibility({"a": read_model(one), "b": read_model(other)})
    assert "'b' has number of attention heads 1, but 'a' has 2." in found
    assert "'b' has head size 64, but 'a' has 32." in found


def test_what_is_known_of_families_is_what_transformers_has() -> None:
    from support.config_defaults import text

    assert FILE.read_text(encoding="utf-8") == text(), "make defaults"
    assert FILE.stat().st_size < 80_000


def test_a_silent_configuration_means_what_transformers_fills_in() -> None:
    from transformers import CONFIG_MAPPING
    from transformers.utils import logging

    logging.set_verbosity_error()
    said = {"rope_theta": 123.0, "sliding_window": 77, "hidden_act": "relu"}
    for name in ("llama", "qwen2", "qwen3", "mistral", "mixtral", "gemma2", "phi3"):
        for config in (
            {},
            said,
            {"rope_scaling": {"rope_type": "linear", "factor": 3}},
        ):
            if name == "phi3" and "rope_scaling" in config:
                continue  # it takes LongRoPE only
            kind = CONFIG_MAPPING[name]
            full = json.loads(json.dumps(kind(num_hidden_layers=N, **config).to_dict()))
            assert family_of(full).is_known
            assert compared(family(name, **config), full) == []
