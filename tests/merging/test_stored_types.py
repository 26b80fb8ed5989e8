"""Without a said `dtype` each tensor keeps the element type it is stored in."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.errors import SpecError
from evomerge.merging.output.writer import write_model
from evomerge.merging.sources import Sources
from evomerge.specs.mergekit import write_mergekit
from evomerge.specs.recipes import open_recipe
from evomerge.specs.studies.study_file import read_study
from evomerge.testing.models import tiny_model

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
OWN = "sources: {base: base, a: a}\noperator: task_arithmetic\nbase: base\nknobs: "
OWN += "{weight: 0.5}\n"
THEIRS = "merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: a, "
THEIRS += "parameters: {weight: 0.5}}]\n"
STACK = "sources: {base: base, a: a}\nstack: {slices: [{source: base, layers: [0, 2]}, "
STACK += "{source: a, layers: [2, 4]}]}\n"


def change(folder, types):
    """Store tensors whose names have a word in them in another type."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        for word, dtype in types.items():
            if word in name:
                tensors[name] = (tensor.double() + 2.0**-9).to(dtype)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.fixture
def pair(tmp_path):
    def _pair(base, a, dtype="bfloat16"):
        for seed, (name, types) in enumerate((("base", base), ("a", a))):
            change(tiny_model(tmp_path / name, seed=seed, dtype=dtype), types)

    return _pair


def merged(folder, text, suffix="yaml"):
    file = folder / f"merge.{suffix}"
    file.write_text(text, encoding="utf-8")
    opened = open_recipe(file)
    with Sources(opened.folders) as sources:
        write_model(opened.recipe, sources, folder / "out")
    config = json.loads((folder / "out" / "config.json").read_text())
    return opened, load_file(folder / "out" / "model.safetensors"), config


@pytest.mark.parametrize("text", [OWN, THEIRS, STACK], ids=["own", "mergekit", "stack"])
@pytest.mark.parametrize(
    "types",
    [{"norm": F32}, {"lm_head": F32}, {"q_proj": F16, "norm": F32}, {"embed": F32}],
    ids=["norms", "head", "three-types", "embedding"],
)
def test_each_tensor_keeps_its_type_and_the_configuration_says_the_usual_one(
    text, types, pair, tmp_path
):
    pair(types, types)
    opened, out, config = merged(tmp_path, text)
    assert opened.recipe.dtype == "stored"
    stored = load_file(tmp_path / "base" / "model.safetensors")
    assert {n: t.dtype for n, t in out.items()} == {
        n: t.dtype for n, t in stored.items()
    }
    assert config["dtype"] == "bfloat16"


def test_values_kept_in_float32_are_not_rounded(pair, tmp_path):
    pair({"norm": F32}, {"norm": F32})
    _, out, _ = merged(tmp_path, OWN)
    base, a = (load_file(tmp_path / n / "model.safetensors") for n in ("base", "a"))
    name = "model.layers.1.input_layernorm.weight"
    torch.testing.assert_close(out[name], (base[name] + a[name]) / 2, rtol=0, atol=1e-7)
    assert not torch.equal(out[name], out[name].bfloat16().float())


@pytest.mark.parametrize("text", [OWN, THEIRS], ids=["own", "mergekit"])
def test_where_inputs_differ_the_type_that_holds_both_is_taken(text, pair, tmp_path):
    pair({"norm": F32, "q_proj": F16}, {})
    _, out, _ = merged(tmp_path, text)
    assert out["model.norm.weight"].dtype == F32
    assert out["model.layers.0.self_attn.q_proj.weight"].dtype == F32
    assert out["model.layers.0.self_attn.k_proj.weight"].dtype == BF16


@pytest.mark.parametrize("text", [OWN, THEIRS, STACK], ids=["own", "mergekit", "stack"])
def test_a_type_that_is_said_is_every_tensors(text, pair, tmp_path):
    pair({"norm": F32}, {"norm": F32})
    _, out, config = merged(tmp_path, text + "dtype: float16\n")
    assert {tensor.dtype for tensor in out.values()} == {F16}
    assert config["dtype"] == "float16"


@pytest.mark.parametrize("text", [OWN, THEIRS], ids=["own", "mergekit"])
def test_models_of_one_type_have_the_recipes_they_had(text, pair, tmp_path):
    pair({}, {})
    opened, _, _ = merged(tmp_path, text)
    said, _, _ = merged_in(tmp_path / "said", text + "dtype: bfloat16\n", tmp_path)
    assert opened.recipe.dtype == "bfloat16"
    assert opened.recipe.digest == said.recipe.digest


def merged_in(folder, text, models):
    folder.mkdir()
    for name in ("base", "a"):
        (folder / name).symlink_to(models / name)
    return merged(folder, text)


def test_layers_of_unlike_models_keep_their_own_types_as_in_mergekit(tmp_path):
    tiny_model(tmp_path / "wide", seed=1, dtype="float32")
    tiny_model(tmp_path / "narrow", seed=2, dtype="bfloat16")
    _, out, config = merged(
        tmp_path,
        "merge_method: passthrough\nslices:\n"
        "- sources: [{model: wide, layer_range: [0, 1]}]\n"
        "- sources: [{model: narrow, layer_range: [1, 4]}]\n",
    )
    assert out["model.layers.0.mlp.up_proj.weight"].dtype == F32
    assert out["model.layers.1.mlp.up_proj.weight"].dtype == BF16
    assert out["lm_head.weight"].dtype == BF16
    assert config["dtype"] == "bfloat16"


def test_a_configuration_that_says_another_type_is_set_right(pair, tmp_path):
    pair({}, {})
    for name in ("base", "a"):
        file = tmp_path / name / "config.json"
        data = json.loads(file.read_text()) | {"dtype": "float32"}
        file.write_text(json.dumps(data))
    _, out, config = merged(tmp_path, OWN)
    assert {tensor.dtype for tensor in out.values()} == {BF16}
    assert config["dtype"] == "bfloat16"


@pytest.mark.parametrize("text", [OWN, THEIRS], ids=["own", "mergekit"])
def test_float64_is_written_as_float32_with_a_warning(text, pair, tmp_path):
    pair({"": torch.float64}, {"": torch.float64}, "float32")
    opened, out, config = merged(tmp_path, text)
    assert {tensor.dtype for tensor in out.values()} == {F32}
    assert config["dtype"] == "float32"
    assert any("float64" in warning.message for warning in opened.warnings)


def test_a_mergekit_file_that_says_float64_is_computed_in_float32(pair, tmp_path):
    pair({}, {}, "float32")
    opened, out, _ = merged(tmp_path, THEIRS + "dtype: float64\n")
    assert {tensor.dtype for tensor in out.values()} == {F32}
    (warning,) = opened.warnings
    assert "float32" in warning.message


def test_an_eight_bit_parent_is_refused_by_the_name_of_its_type(pair, tmp_path):
    pair({"mlp": torch.float8_e4m3fn}, {})
    with pytest.raises(SpecError, match="F8_E4M3"):
        merged(tmp_path, THEIRS)


def test_types_come_back_from_a_mergekit_file(pair, tmp_path):
    pair({"norm": F32}, {"norm": F32})
    opened, _, _ = merged(tmp_path, OWN)
    written = write_mergekit(opened.recipe, opened.models)
    assert {"dtype", "out_dtype"}.isdisjoint(written.data)
    assert not written.losses


def test_a_study_merges_as_stored_and_its_engine_has_one_type(pair, tmp_path):
    pair({"norm": F32}, {"norm": F32})
    file = tmp_path / "study.yaml"
    file.write_text(
        "sources: {base: base, a: a}\nspace: {operator: task_arithmetic, base: base, "
        "knobs: {weight: search}}\ntasks: {add: {task: simulated, metric: acc}}\n"
        "engine: {kind: simulated}\nbudget: {trials: 10}\n",
        encoding="utf-8",
    )
    study = read_study(file)
    assert (study.dtype, study.engine.dtype) == ("stored", "bfloat16")
    assert {baseline.recipe.dtype for baseline in study.baselines} == {"stored"}
