"""Models of several stacks of layers: encoder-decoders, and stacks that take turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from architectures.built import CAUSAL, ENCODER_DECODER, build
from safetensors.torch import load_file, save_file
from support.study_files import simulated_study, write_study

from evomerge import api
from evomerge.checkpoints import compatibility, read_model
from evomerge.core.recipes.operation import Operation
from evomerge.core.recipes.recipe import Checkpoint, Recipe, Slot
from evomerge.errors import CheckpointError, RecipeError, SpecError
from evomerge.merging.materialise import describe
from evomerge.merging.sources import Sources
from evomerge.merging.views.revocabulated import Revocabulated
from evomerge.merging.views.stored import Stored
from evomerge.specs.completing.resolve import resolve
from evomerge.specs.studies.study_file import load_study


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and two models, with four layers that read and two that write."""
    root = tmp_path_factory.mktemp("t5")
    build(root, ENCODER_DECODER, "t5")
    return root


@pytest.mark.slow
def test_layers_are_numbered_through_those_of_the_encoder_first(t5: Path) -> None:
    model = read_model(t5 / "a")
    assert [kind.stack for kind in model.layer_types] == [
        *["encoder.block."] * 4,
        *["decoder.block."] * 2,
    ]
    name = "decoder.block.1.layer.2.DenseReluDense.wo.weight"
    place = model.places[name]
    assert (place.layer, place.role) == (5, "mlp")
    assert model.layout.full_name(5, place.suffix) == name
    assert model.layout.embed == "shared.weight"
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    assert model.places[bias].role == "bias"


@pytest.mark.slow
def test_an_encoder_decoder_that_lacks_a_layer_is_refused(
    t5: Path, tmp_path: Path
) -> None:
    tensors = load_file(t5 / "a" / "model.safetensors")
    kept = {n: t for n, t in tensors.items() if not n.startswith("encoder.block.3.")}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text((t5 / "a" / "config.json").read_text())
    with pytest.raises(CheckpointError, match=r"layers \[3\] are missing"):
        read_model(tmp_path)


@pytest.mark.slow
def test_copies_of_a_shared_embedding_are_merged_like_it(
    t5: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        tensors = load_file(t5 / name / "model.safetensors")
        for side in ("encoder", "decoder"):
            tensors[f"{side}.embed_tokens.weight"] = tensors["shared.weight"].clone()
        save_file(tensors, tmp_path / name / "model.safetensors", {"format": "pt"})
        config = (t5 / name / "config.json").read_text()
        (tmp_path / name / "config.json").write_text(config)
    file = tmp_path / "merge.yaml"
    file.write_text("sources: {a: a, b: b}\noperator: linear\nframe: a\n")
    api.merge(file, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found["encoder.embed_tokens.weight"].equal(found["shared.weight"])
    assert found["decoder.embed_tokens.weight"].equal(found["shared.weight"])


@pytest.mark.slow
def test_layers_of_several_stacks_are_not_set_on_each_other(t5: Path) -> None:
    models = {name: read_model(t5 / name) for name in ("a", "b")}
    (said, _) = compatibility(models, same_depth=False)
    assert "cannot be set on each other" in said
    copy = Slot((("*", Operation.copy_of("a")),))
    layers = [Slot(copy.roles, (("a", i),)) for i in (0, 1, 2, 3, 3, 4)]
    recipe = Recipe(
        frame="a",
        dtype="float32",
        inputs=(("a", Checkpoint(models["a"].fingerprint)),),
        embed=copy,
        slots=tuple(layers),
        head=copy,
    )
    folders = {models["a"].fingerprint: t5 / "a"}
    with Sources(folders) as sources, pytest.raises(RecipeError, match=r"\[4, 5\] of"):
        describe(recipe, sources)


@pytest.mark.slow
def test_a_study_of_an_encoder_decoder_is_refused_by_name(
    t5: Path, tmp_path: Path
) -> None:
    sources: dict[str, Any] = {name: str(t5 / name) for name in ("base", "a", "b")}
    file = write_study(tmp_path / "study.yaml", simulated_study(t5, sources=sources))
    study = load_study(file)
    with pytest.raises(SpecError, match=r"got an encoder-decoder \(T5ForCond"):
        resolve(study, base_dir=".")


@pytest.mark.slow
def test_tables_of_whole_numbers_must_be_equal(tmp_path: Path) -> None:
    build(tmp_path, CAUSAL, "deepseek_v4", num_hidden_layers=2)
    models = {name: read_model(tmp_path / name) for name in ("a", "b")}
    assert compatibility(models) == []
    file = tmp_path / "b" / "model.safetensors"
    tensors = load_file(file)
    (table,) = (name for name in tensors if name.endswith("tid2eid"))
    tensors[table] = tensors[table] + 1
    save_file(tensors, file, {"format": "pt"})
    models["b"] = read_model(tmp_path / "b")
    (said,) = compatibility(models)
    assert table in said
    assert "allow: [routing]" in said
    assert compatibility(models, allow=["routing"]) == []


@pytest.mark.slow
def test_biases_with_a_column_for_each_token_are_not_brought_to_a_vocabulary(
    tmp_path: Path,
) -> None:
    build(tmp_path, ENCODER_DECODER, "bart")
    model = read_model(tmp_path / "a")
    with Sources({model.fingerprint: tmp_path / "a"}) as sources:
        view = Stored(sources, model.fingerprint)
        with pytest.raises(RecipeError, match=r"final_logits_bias of shape \[1, 96\]"):
            Revocabulated("a", cast("Any", None), {"a": view})
