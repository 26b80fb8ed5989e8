"""Scales on layers' inputs become weights of an ordinary model: the same function."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.scaled import scaling, without_epsilon
from torch.nn.functional import rms_norm, silu

from evomerge.checkpoints import read_model
from evomerge.checkpoints.foldable import folds_of, unfoldable
from evomerge.core.recipes.recipe import Checkpoint, Nested, Operation, Recipe, Slot
from evomerge.errors import RecipeError
from evomerge.merging.output.writer import write_model
from evomerge.merging.sources import Sources
from evomerge.merging.views.configuration import fold_into
from evomerge.merging.views.merged import Merged
from evomerge.testing.families import (
    FAMILIES,
    STRANGERS,
    family_config,
    family_model,
    logits,
    save_family,
)

WANTED = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3")
MORE: Mapping[str, Mapping[str, Any]] = {
    "gemma": {},
    "qwen2_moe": {"num_experts": 4, "num_experts_per_tok": 2}
    | {"moe_intermediate_size": 24, "shared_expert_intermediate_size": 40},
}
"""Families that fold, besides those of the architecture table."""
OTHERS = tuple(n for n in (*FAMILIES, *STRANGERS, *MORE) if n not in WANTED)

LAYERS = (("a", 0), ("b", 2), ("a", 1), ("a", 1), ("b", 0), ("a", 2), ("b", 1))
SCALES = (1.3, 0.6, 1.0, 2.1, 0.8, 1.25, 0.9)

Layer = dict[str, torch.Tensor]

# --- the derivation, on a toy in float64 -------------------------------------------

WIDTH, TOY = 8, (1.3, 0.6, 2.1)
_MATRICES = {"self_attn.v_proj": "attn", "self_attn.o_proj": "attn"} | {
    f"mlp.{name}_proj": "mlp" for name in ("gate", "up", "down")
}


def toy(norms: Sequence[str], seed: int) -> Layer:
    """Return a layer: attention to itself alone, then a gated feed-forward block."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    out = {f"{name}.weight": draw(WIDTH, WIDTH) for name in _MATRICES}
    out |= {"self_attn.o_proj.bias": draw(WIDTH), "mlp.down_proj.bias": draw(WIDTH)}
    return out | {f"{norm}.weight": draw(WIDTH) for norm in norms}


def run(layers: Sequence[Layer], scales: Sequence[float], shift: float) -> torch.Tensor:
    """Run toy layers from a fixed state to after a final norm without epsilon."""
    state = torch.linspace(-1.0, 2.0, WIDTH, dtype=torch.float64)
    for layer, scale in zip(layers, scales, strict=True):
        state = block(layer, scale * state, shift)
    return rms_norm(state, (WIDTH,), eps=0.0)


def block(layer: Layer, state: torch.Tensor, shift: float) -> torch.Tensor:
    sandwiched = "pre_feedforward_layernorm.weight" in layer
    after = sandwiched or "input_layernorm.weight" not in layer

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        gain = layer.get(f"{name}.weight")
        return x if gain is None else (gain + shift) * rms_norm(x, (WIDTH,), eps=0.0)

    def times(name: str, x: torch.Tensor) -> torch.Tensor:
        return layer[f"{name}.weight"] @ x + layer.get(f"{name}.bias", 0.0)

    x = times("self_attn.v_proj", norm("input_layernorm", state))
    x = times("self_attn.o_proj", x)
    state = state + (norm("post_attention_layernorm", x) if after else x)
    before = "pre_feedforward_layernorm" if after else "post_attention_layernorm"
    x = norm(before, state)
    x = silu(times("mlp.gate_proj", x)) * times("mlp.up_proj", x)
    x = times("mlp.down_proj", x)
    return state + (norm("post_feedforward_layernorm", x) if after else x)


@pytest.mark.parametrize(
    ("family", "norms", "shift"),
    [
        ("llama", ("input", "post_attention"), 0.0),
        (
            "gemma2",
            ("input", "post_attention", "pre_feedforward", "post_feedforward"),
            1.0,
        ),
        ("olmo2", ("post_attention", "post_feedforward"), 0.0),
    ],
)
def test_a_folded_toy_computes_what_the_scaled_one_does(
    family: str, norms: Sequence[str], shift: float
) -> None:
    layers = [toy([f"{norm}_layernorm" for norm in norms], seed) for seed in range(3)]
    roles = [
        {n: _MATRICES.get(n.rsplit(".", 1)[0], "norm") for n in layer}
        for layer in layers
    ]
    folds = folds_of({"model_type": family}, roles, TOY, "float32")
    folded = [{n: t.clone() for n, t in layer.items()} for layer in layers]
    for layer, changes in zip(folded, folds, strict=True):
        for name, fold in changes.items():
            fold_into(layer[name], layer[name].clone(), fold)
    expected = run(layers, TOY, shift)
    found = run(folded, (1.0, 1.0, 1.0), shift)
    assert (found - expected).abs().max() < 1e-13
    assert (run(layers, (1.0, 1.0, 1.0), shift) - expected).abs().max() > 0.01


# --- families, as transformers runs them --------------------------------------------


def alone(name: str) -> Slot:
    return Slot((("*", Operation("linear", (name,))),))


def stacked(
    prints: Mapping[str, str], scales: Sequence[float], dtype: str = "float32"
) -> Recipe:
    """Return the recipe of the tests' stack."""
    slots = [
        Slot(alone(name).roles, ((name, layer),), scale)
        for (name, layer), scale in zip(LAYERS, scales, strict=True)
    ]
    inputs = tuple((name, Checkpoint(print_)) for name, print_ in prints.items())
    return Recipe("a", dtype, inputs, alone("a"), tuple(slots), alone("a"))


def config_of(family: str) -> Any:
    from transformers import AutoConfig

    if family not in MORE:
        return family_config(family)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48}
    sizes |= {"num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 8}
    sizes |= {"num_key_value_heads": 2, "pad_token_id": 0, **MORE[family]}
    return AutoConfig.for_model(family, **sizes)


def parents(folder: Path, family: str) -> dict[str, str]:
    """Write two models of a family; return name to fingerprint."""
    out = {}
    for seed, name in enumerate("ab"):
        save_family(folder / name, family_model(config_of(family), seed))
        out[name] = read_model(folder / name).fingerprint
    return out


def opened(folder: Path, prints: Mapping[str, str]) -> Sources:
    return Sources({print_: folder / name for name, print_ in prints.items()})


def loaded(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32
    )
    assert not any(info.values()), info
    return model.eval()


def check_family(tmp_path: Path, family: str) -> None:
    """Compare a written scaled stack with the same stack scaled while it runs."""
    prints = parents(tmp_path, family)
    with opened(tmp_path, prints) as sources:
        write_model(stacked(prints, SCALES), sources, tmp_path / "folded")
        write_model(stacked(prints, (1.0,) * 7), sources, tmp_path / "plain")
    folded, plain = loaded(tmp_path / "folded"), loaded(tmp_path / "plain")
    unscaled = logits(plain)
    with scaling(plain, SCALES):
        expected = logits(plain)
        seen = (logits(folded) - expected).abs().max()
        expected_without = logits(without_epsilon(plain))
    without = (logits(without_epsilon(folded)) - expected_without).abs().max()
    size = expected.abs().max()
    # Weights are rounded to float32; the epsilon of a norm is not folded.
    assert without <= 2e-6 * size
    assert seen <= 1e-3 * size
    assert (unscaled - expected).abs().max() > 0.02 * size


@pytest.mark.parametrize("family", WANTED)
def test_a_written_stack_answers_like_one_scaled_while_it_runs(
    tmp_path: Path, family: str
) -> None:
    check_family(tmp_path, family)


@pytest.mark.slow
@pytest.mark.parametrize("family", OTHERS)
def test_other_families_fold_as_well(tmp_path: Path, family: str) -> None:
    check_family(tmp_path, family)


# --- what else can be written, and what cannot ----------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of three families."""
    root = tmp_path_factory.mktemp("folders")
    for family in ("llama", "gemma2", "opt"):
        parents(root / family, family)
    return root


def prints_of(folder: Path) -> dict[str, str]:
    return {name: read_model(folder / name).fingerprint for name in "ab"}


def test_what_layers_add_is_divided_and_rounded_once(folders: Path) -> None:
    prints = prints_of(folders / "llama")
    with opened(folders / "llama", prints) as sources:
        written = Merged(stacked(prints, SCALES, "bfloat16"), sources)
        live = Merged(stacked(prints, SCALES), sources, scaled=True)
        divisor = 1.0
        for place, scale in enumerate(SCALES):
            divisor *= scale
            for name in written.section(place):
                expected = live.read(place, name)
                if name in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
                    expected = expected * (1 / divisor)
                found = written.read(place, name)
                assert torch.equal(found, expected.bfloat16()), (place, name)


def test_a_scaled_stack_within_a_recipe_is_folded_before_it_is_merged(
    folders: Path,
) -> None:
    prints = prints_of(folders / "llama")
    within = stacked(prints, SCALES)
    slots = tuple(Slot(alone("x").roles, (("x", i),), 1.5) for i in range(7))
    inputs = (("x", Nested(within)),)
    whole = Recipe("x", "float32", inputs, alone("x"), slots, alone("x"))
    both = stacked(prints, [1.5 * scale for scale in SCALES])
    with opened(folders / "llama", prints) as sources:
        found, expected = Merged(whole, sources), Merged(both, sources)
        for place in range(7):
            for name in found.section(place):
                torch.testing.assert_close(
                    found.read(place, name),
                    expected.read(place, name),
                    rtol=1e-6,
                    atol=0,
                )


def test_an_unscaled_recipe_is_not_touched(folders: Path) -> None:
    assert folds_of({}, [{}, {}], (1.0, 1.0), "float32") == ({}, {})


@pytest.mark.parametrize(
    ("family", "scales", "dtype", "says"),
    [
        (
            "llama",
            (1.0, -0.5, *SCALES[2:]),
            "float32",
            r"Slot 1 .* by -0\.5; only posi",
        ),
        ("llama", (1.0, 0.0, *SCALES[2:]), "float32", r"Slot 1 .* by 0\.0; only posi"),
        ("llama", (7.0,) * 7, "float16", r"up to slot 2 multiply to 343; in float16"),
        (
            "llama",
            (0.1,) * 7,
            "float16",
            r"up to slot 2 multiply to 0\.001; in float16",
        ),
        ("gemma2", (2.5,) * 7, "bfloat16", r"up to slot 1 multiply to 6\.25; in bf"),
    ],
)
def test_what_is_not_exact_is_refused_before_anything_is_written(
    folders: Path,
    tmp_path: Path,
    family: str,
    scales: Sequence[float],
    dtype: str,
    says: str,
) -> None:
    prints = prints_of(folders / family)
    recipe = stacked(prints, scales, dtype)
    with (
        opened(folders / family, prints) as sources,
        pytest.raises(RecipeError, match=says),
    ):
        write_model(recipe, sources, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "novel"}, "not known which tensors of a 'novel' model write"),
        ({"do_layer_norm_before": False}, "do_layer_norm_before False.*passes a norm"),
        ({"model_type": "llama"}, r"layer 0 has the norms \['final_layer_norm'"),
    ],
)
def test_a_family_that_lets_no_factor_through_is_refused_with_the_reason(
    folders: Path, tmp_path: Path, changes: Mapping[str, Any], says: str
) -> None:
    for name in "ab":
        save_family(tmp_path / name, family_model(family_config("opt"), ord(name)))
        file = tmp_path / name / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    prints = prints_of(tmp_path)
    assert re.search(says, unfoldable(read_model(tmp_path / "a")) or "")
    with (
        opened(tmp_path, prints) as sources,
        pytest.raises(RecipeError, match=f"cannot be written into weights: .*{says}"),
    ):
        write_model(stacked(prints, SCALES), sources, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_stored_model_tells_that_scales_fold(folders: Path) -> None:
    assert unfoldable(read_model(folders / "gemma2" / "a")) is None


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "olmo2"])
def test_folded_weights_lose_no_more_digits_than_others(
    tmp_path: Path, family: str, dtype: str
) -> None:
    prints = parents(tmp_path, family)

    def lost(scales: Sequence[float], name: str) -> float:
        with opened(tmp_path, prints) as sources:
            exact, rounded = (
                logits(loaded(write_model(recipe, sources, tmp_path / out).path))
                for recipe, out in (
                    (stacked(prints, scales), name),
                    (stacked(prints, scales, dtype), f"{name} rounded"),
                )
            )
        return float((exact - rounded).abs().mean() / exact.abs().mean())

    assert 0 < lost(SCALES, "scaled") < 1.5 * lost((1.0,) * 7, "plain")
