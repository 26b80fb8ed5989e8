"""What stored models cost, by hand and as torch itself counts it."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.vocabularies import add_tokens

from evomerge.checkpoints import read_model
from evomerge.checkpoints.alignment import Plan
from evomerge.checkpoints.costs import facts_of, lookup_among
from evomerge.core.cost import RecipeCosts
from evomerge.core.flow.stacks import passthrough
from evomerge.core.recipes.recipe import Checkpoint
from evomerge.errors import CheckpointError
from evomerge.specs.vocabulary import brought
from evomerge.testing.families import family_config, family_model, save_family
from evomerge.testing.models import tiny_model


def costs_of(folder: Path) -> RecipeCosts:
    model = read_model(folder)
    recipe = passthrough("m", model.fingerprint, model.n_layers, "float32")
    return RecipeCosts.of(recipe, lookup_among([model]))


def test_a_tiny_model_counted_by_hand(tmp_path: Path) -> None:
    # One head of 32, hidden and inner width 32, 288 tokens, two layers.
    folder = tiny_model(tmp_path / "m", "qwen2", n_layers=2, hidden=32, vocab=288)
    matrices = 4 * 32 * 32 + 3 * 32 * 32
    layer = matrices + 3 * 32 + 2 * 32  # biases of q, k and v; two norms
    costs = costs_of(folder)
    assert costs.parameters == 2 * 288 * 32 + 32 + 2 * layer
    assert costs.flops(100) == 2 * (288 * 32 + 2 * matrices) + 2 * 4 * 32 * 100
    assert costs.layers == 2


def test_a_tied_model_has_no_head_of_its_own(tmp_path: Path) -> None:
    tied = costs_of(tiny_model(tmp_path / "t", tied=True))
    untied = costs_of(tiny_model(tmp_path / "u"))
    assert untied.parameters - tied.parameters == 288 * 32
    assert untied.flops() == tied.flops()


def saved(tmp_path: Path, family: str, **changes: Any) -> tuple[Path, Any]:
    model = family_model(family_config(family, **changes))
    save_family(tmp_path / family, model)
    return tmp_path / family, model


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma2", "mixtral", "qwen3_moe"])
def test_transformers_has_as_many_parameters(tmp_path: Path, family: str) -> None:
    folder, model = saved(tmp_path, family)
    assert costs_of(folder).parameters == model.num_parameters()


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3", "gemma2", "mixtral"])
def test_torch_counts_as_many_operations_for_a_token(
    tmp_path: Path, family: str
) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    folder, model = saved(tmp_path, family, attn_implementation="eager")
    model.set_experts_implementation("eager")
    tokens = torch.arange(3, 14)[None]
    with torch.inference_mode():
        before = model(tokens[:, :-1], use_cache=True).past_key_values
        with FlopCounterMode(display=False) as counter:
            model(tokens[:, -1:], past_key_values=before)
    assert counter.get_total_flops() == costs_of(folder).flops(11)


def test_of_the_experts_only_those_a_token_is_sent_to_run(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, "mixtral")
    (layer, *_) = facts_of(read_model(folder)).layers
    attention, router, expert = 32 * (32 + 16 + 16 + 32), 4 * 32, 3 * 32 * 48
    assert layer.active == attention + router + 2 * expert
    assert layer.parameters == attention + router + 4 * expert + 2 * 32


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))
    return folder


def test_a_mixture_that_says_nothing_of_its_use_is_not_guessed(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, "mixtral")
    rewritten(folder, lambda config: config.pop("num_experts_per_tok"))
    facts = facts_of(read_model(folder))
    assert facts.layers[0].flops(8) is None


def test_layers_look_back_as_far_as_their_window(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, "gemma2")
    windows = [layer.window for layer in facts_of(read_model(folder)).layers]
    assert windows == [4, None, 4]
    folder, _ = saved(tmp_path, "mistral", sliding_window=6)
    windows = [layer.window for layer in facts_of(read_model(folder)).layers]
    assert windows == [6, 6, 6]
    folder, _ = saved(tmp_path, "qwen2")
    assert facts_of(read_model(folder)).layers[0].window is None


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_brought_to_another_vocabulary_has_its_rows(
    tmp_path: Path, tied: bool
) -> None:
    from evomerge.merging.output.writer import write_model
    from evomerge.merging.sources import Sources

    models = {}
    for seed, name in enumerate("ab"):
        folder = tiny_model(tmp_path / name, tied=tied, seed=seed, n_layers=2)
        if name == "b":
            add_tokens(folder, ["<tool>", "<call>"])
        models[name] = read_model(folder)
    given = brought(models, Plan("a", union=True))
    recipe = passthrough("a", given["a"], 2, "float32")
    costs = RecipeCosts.of(recipe, lookup_among(models.values()))
    paths = {model.fingerprint: model.path for model in models.values()}
    with Sources(paths) as sources:
        written = read_model(write_model(recipe, sources, tmp_path / "out").path)
    held = sum(math.prod(info.shape) for info in written.tensors.values())
    assert costs.parameters == held
    assert written.vocab_size == 290
    assert costs.flops() == costs_of(written.path).flops()


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    model = read_model(tiny_model(tmp_path / "m"))
    with pytest.raises(CheckpointError, match="'nobody'"):
        lookup_among([model])(Checkpoint("nobody"))
