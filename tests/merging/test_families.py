"""The architecture table: every family, merged by five methods, loads and answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from support.by_hand import METHODS, merged_by_hand

from evomerge import api
from evomerge.checkpoints import read_model
from evomerge.core.operators.catalogue import ROLES
from evomerge.core.recipes.recipe import Checkpoint, Operation, Recipe, Slot
from evomerge.core.roles import for_role
from evomerge.errors import CheckpointError, SpecError
from evomerge.merging.output.writer import write_model
from evomerge.merging.sources import Sources
from evomerge.testing.families import (
    FAMILIES,
    STRANGERS,
    family_config,
    family_model,
    logits,
    save_family,
)

Feeds = Mapping[str, int]
Slots = Sequence[tuple[Operation, Feeds]]


@dataclass(frozen=True)
class Parents:
    """A base and two models near it, as folders and as transformers has them."""

    folders: Mapping[str, Path]
    models: Mapping[str, Any]

    def state(self, name: str) -> dict[str, torch.Tensor]:
        """Return a parent's state dict in float32."""
        return {n: t.float() for n, t in self.models[name].state_dict().items()}

    def write(
        self, out: Path, merge: Operation, slots: Slots | None = None, **more: Any
    ) -> Path:
        """Merge into a folder, slot i layer i of every input unless told otherwise."""
        recipe = self.recipe(merge, slots)
        found = [read_model(folder) for folder in self.folders.values()]
        with Sources({model.fingerprint: model.path for model in found}) as sources:
            return write_model(recipe, sources, out, **more).path

    def recipe(self, merge: Operation, slots: Slots | None = None) -> Recipe:
        """Write down a merge, slot i layer i of every input unless told otherwise."""
        found = {name: read_model(folder) for name, folder in self.folders.items()}
        n = found["m1"].n_layers
        slots = slots or [(merge, dict.fromkeys(merge.reads, i)) for i in range(n)]
        return Recipe(
            frame="m1",
            dtype="float32",
            inputs=tuple((n, Checkpoint(m.fingerprint)) for n, m in found.items()),
            embed=Slot(_roles(merge)),
            slots=tuple(Slot(_roles(op), tuple(fed.items())) for op, fed in slots),
            head=Slot(_roles(merge)),
        )


def alone(name: str) -> Operation:
    return Operation("linear", (name,))


def _roles(merge: Operation) -> tuple[tuple[str, Operation], ...]:
    return tuple((role, for_role(merge, role)) for role in ROLES)


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Parents]:
    """Parents of a family, made when they are first asked for."""

    @cache
    def make(family: str) -> Parents:
        return related(tmp_path_factory.mktemp(family), family_config(family))

    return make


def related(
    folder: Path, config: Any, dtypes: Mapping[str, str] | None = None, **saving: Any
) -> Parents:
    base = family_model(config)
    models = {"base": base} | {
        f"m{seed}": family_model(config, seed, near=base) for seed in (1, 2)
    }
    for name, model in models.items():
        dtype = (dtypes or {}).get(name, "float32")
        save_family(folder / name, model, dtype, **saving)
    return Parents({name: folder / name for name in models}, models)


def loaded(folder: Path) -> Any:
    """Load a model that transformers finds nothing missing or odd in."""
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32
    )
    assert not any(info.values()), info
    return model.eval()


def with_state(config: Any, state: Mapping[str, torch.Tensor]) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config).eval().float()
    model.load_state_dict(state)
    return model


def same_answers(folder: Path, config: Any, state: Mapping[str, torch.Tensor]) -> None:
    """Assert that a folder holds exactly a state dict, and answers like it."""
    found, expected = loaded(folder), with_state(config, state)
    for name, values in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], values), name
    assert torch.equal(logits(found), logits(expected))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_merges_like_its_plain_state_dicts(
    tmp_path: Path, parents: Callable[[str], Parents], family: str, method: str
) -> None:
    made = parents(family)
    config = made.models["base"].config
    found = loaded(made.write(tmp_path / "out", METHODS[method]))
    states = [made.state(name) for name in ("m1", "m2", "base")]
    expected = merged_by_hand(method, config, *states)
    exact = method != "slerp"
    for name, values in found.state_dict().items():
        if exact:
            assert torch.equal(values, expected[name]), name
        torch.testing.assert_close(values, expected[name], rtol=1e-6, atol=1e-6)
    theirs, ours = logits(with_state(config, expected)), logits(found)
    assert torch.equal(ours, theirs) or not exact
    assert (ours - theirs).abs().max() <= 1e-6 * theirs.abs().max()
    assert (theirs - logits(made.models["m1"])).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
@pytest.mark.parametrize("family", STRANGERS)
def test_a_family_never_heard_of_merges_entry_by_entry(
    tmp_path: Path, parents: Callable[[str], Parents], family: str, method: str
) -> None:
    made = parents(family)
    config = made.models["base"].config
    states = [made.state(name) for name in ("m1", "m2", "base")]
    expected = merged_by_hand(method, config, *states, whole=True)
    same_answers(made.write(tmp_path / "out", METHODS[method]), config, expected)


STACK = (("m1", 0), ("m2", 3), ("m1", 1), ("m2", 4), ("m2", 0), ("m1", 2))
"""Input and layer of each slot; the inputs have three and five layers."""


def deeper(family: str, layers: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """Return what a configuration says of layers taken from m1 and m2."""
    own = {**FAMILIES, **STRANGERS}[family]
    out: dict[str, Any] = {}
    for key in ("layer_types", "no_rope_layers"):
        if key in own:
            out[key] = [own[key][layer % 3] for _, layer in layers]
    if "mlp_only_layers" in own:
        dense = [i for i, (_, layer) in enumerate(layers) if layer % 3 == 1]
        out["mlp_only_layers"] = dense
    key = "n_layer" if own.get("n_layer") else "num_hidden_layers"
    return out | {key: len(layers)}


@pytest.mark.slow
@pytest.mark.parametrize("family", [*FAMILIES, *STRANGERS])
def test_layers_of_two_depths_stack_in_any_family(tmp_path: Path, family: str) -> None:
    long = deeper(family, [("m2", i) for i in range(5)])
    models = {
        "m1": family_model(family_config(family), 1),
        "m2": family_model(family_config(family, **long), 2),
    }
    for name, model in models.items():
        save_family(tmp_path / name, model)
    made = Parents({name: tmp_path / name for name in models}, models)
    slots = [(alone(name), {name: layer}) for name, layer in STACK]
    first = alone("m1")
    out = made.write(tmp_path / "out", first, slots)
    config = family_config(family, **deeper(family, STACK))
    states = {name: made.state(name) for name in models}
    expected = {n: t for n, t in states["m1"].items() if not re.search(r"\.\d+\.", n)}
    for slot, (name, layer) in enumerate(STACK):
        for key, values in states[name].items():
            if re.match(rf"[a-z_.]+?\.{layer}\.", key):
                renamed = re.sub(rf"^([a-z_.]+?)\.{layer}\.", rf"\1.{slot}.", key)
                expected[renamed] = values
    same_answers(out, config, expected)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["phi3", "mixtral"])
def test_shards_and_element_types_may_be_mixed(tmp_path: Path, family: str) -> None:
    dtypes = {"base": "float16", "m1": "bfloat16"}
    config = family_config(family)
    made = related(tmp_path, config, dtypes, max_shard_size="20KB")
    assert all(len(list(f.glob("*.safetensors"))) > 2 for f in made.folders.values())
    states = [made.state(name) for name in ("m1", "m2", "base")]
    expected = merged_by_hand("ties", config, *states)
    out = made.write(tmp_path / "out", METHODS["ties"], shard_bytes=30_000)
    assert (out / "model.safetensors.index.json").is_file()
    same_answers(out, config, expected)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_experts_fused_on_disk_merge_as_those_apart(
    tmp_path: Path, parents: Callable[[str], Parents], family: str
) -> None:
    made = parents(family)
    for name, model in made.models.items():
        save_family(tmp_path / name, model, save_original_format=False)
    fused = Parents({name: tmp_path / name for name in made.models}, made.models)
    shapes = [len(t.shape) for t in read_model(tmp_path / "m1").tensors.values()]
    assert 3 in shapes
    ties = METHODS["ties"]
    together = loaded(fused.write(tmp_path / "together", ties)).state_dict()
    apart = loaded(made.write(tmp_path / "apart", ties)).state_dict()
    assert all(torch.equal(together[name], apart[name]) for name in apart)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2", "gpt_neox"])
def test_a_tied_and_an_untied_parent_give_an_untied_model(
    tmp_path: Path, family: str
) -> None:
    models = {
        "m1": family_model(family_config(family, tie_word_embeddings=True), 1),
        "m2": family_model(family_config(family, tie_word_embeddings=False), 2),
    }
    for name, model in models.items():
        save_family(tmp_path / name, model)
    made = Parents({name: tmp_path / name for name in models}, models)
    one, other = made.state("m1"), made.state("m2")
    expected = {n: 0.25 * one[n] + 0.75 * other[n] for n in other}
    config = family_config(family, tie_word_embeddings=False)
    same_answers(made.write(tmp_path / "out", METHODS["linear"]), config, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "layers", "says"),
    [
        ("gemma2", (0, 1), "expected sliding attention.*got full attention"),
        ("gemma3_text", (2, 0), "expected full attention.*got sliding attention"),
        ("qwen3_moe", (0, 1), "a mixture of experts.*one feed-forward block"),
        ("smollm3", (0, 1), "no rotary positions"),
    ],
)
def test_layers_of_different_types_are_not_merged_into_one(
    tmp_path: Path,
    parents: Callable[[str], Parents],
    family: str,
    layers: tuple[int, int],
    says: str,
) -> None:
    merge, made = METHODS["linear"], parents(family)
    slots = [(merge, dict(zip(("m1", "m2"), layers, strict=True)))]
    paths = {name: str(folder) for name, folder in made.folders.items()}
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(made.recipe(merge, slots).to_json() | {"paths": paths}))
    with pytest.raises(SpecError, match=says) as caught:
        api.merge(file, tmp_path / "out")
    for name, layer in zip(("m1", "m2"), layers, strict=True):
        assert f"layer {layer}" in str(caught.value)
        assert repr(name) in str(caught.value)
    assert not (tmp_path / "out").exists()
    insisted = json.loads(file.read_text()) | {"allow": ["layer_types"]}
    file.write_text(json.dumps(insisted))
    if family != "qwen3_moe":  # whose layers have other tensors too
        assert api.merge(file, tmp_path / "out").path.is_dir()


@pytest.mark.slow
def test_a_pattern_of_layers_left_out_of_the_configuration_is_known(
    tmp_path: Path,
) -> None:
    model = family_model(family_config("gemma2"), 1)
    save_family(tmp_path / "m1", model)
    file = tmp_path / "m1" / "config.json"
    config = json.loads(file.read_text())
    del config["layer_types"]
    file.write_text(json.dumps(config))
    one = alone("m1")
    made = Parents({"m1": tmp_path / "m1"}, {"m1": model})
    slots = [(one, {"m1": layer}) for layer in (1, 1, 2)]
    out = made.write(tmp_path / "out", one, slots)
    written = json.loads((out / "config.json").read_text())["layer_types"]
    assert written == ["full_attention", "full_attention", "sliding_attention"]


@pytest.mark.slow
def test_a_model_of_another_kind_is_refused_with_the_reason(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModel

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = AutoConfig.for_model("vit", num_hidden_layers=2, image_size=32, **sizes)
    AutoModel.from_config(config).save_pretrained(tmp_path / "m")
    with pytest.raises(CheckpointError, match="does not say how many tokens it knows"):
        read_model(tmp_path / "m")
