"""What is wrong with a mergekit file is said, all of it at once, with its place."""

import json

import pytest

from evomerge.errors import SpecError
from evomerge.specs.recipes import load_recipe, open_recipe
from evomerge.testing.models import tiny_model

TWO = """
models:
  - {model: m1, parameters: {weight: 0.5}}
  - {model: m2, parameters: {weight: 0.5}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three models of four layers, one that is wider, one of other layers."""
    folder = tmp_path_factory.mktemp("mergekit")
    for seed, name in enumerate(("base", "m1", "m2")):
        tiny_model(folder / name, seed=seed)
    tiny_model(folder / "wide", seed=9, hidden=64)
    tiny_model(folder / "deep", seed=9, n_layers=5)
    mute = tiny_model(folder / "mute", seed=7)
    settings = json.loads((mute / "tokenizer_config.json").read_text())
    settings.pop("chat_template")
    (mute / "tokenizer_config.json").write_text(json.dumps(settings))
    config = tiny_model(folder / "turned", seed=8) / "config.json"
    other = json.loads(config.read_text()) | {
        "rope_theta": 5e5,
        "rope_parameters": None,
    }
    config.write_text(json.dumps(other), encoding="utf-8")
    return folder


@pytest.fixture
def mistakes(folder):
    """Read a text as a file and return what was wrong: place to message."""

    def _mistakes(text: str) -> dict[str, str]:
        file = folder / "merge.yml"
        file.write_text(text, encoding="utf-8")
        with pytest.raises(SpecError) as caught:
            load_recipe(file)
        found = {p.where: p.message for p in caught.value.problems}
        return {without_file(where): message for where, message in found.items()}

    return _mistakes


ONE_MISTAKE = {
    "unknown method": ("merge_method: tiess" + TWO, "merge_method", "'ties'"),
    "no parameter that is needed": (
        "merge_method: ties\nbase_model: base\n"
        "models: [{model: m1, parameters: {weight: 1}}, {model: m2}]",
        "models.1.parameters.weight",
        "ties needs weight of every input",
    ),
    "filters that leave tensors without a value": (
        "merge_method: slerp\nbase_model: m1\nmodels: [{model: m2}]\n"
        "parameters: {t: [{filter: mlp, value: 0.5}]}",
        "models.parameters.t",
        "slerp needs t",
    ),
    "a base that becomes an input": (
        "merge_method: linear\nbase_model: base" + TWO,
        "base_model",
        "the base joins the inputs of linear",
    ),
    "weights that sum to zero": (
        "merge_method: linear\nmodels:\n"
        "  - {model: m1, parameters: {weight: 1}}\n"
        "  - {model: m2, parameters: {weight: -1}}",
        "models.0.parameters.weight",
        "a sum that can be divided by",
    ),
    "weights that sum to zero in one layer": (
        "merge_method: linear\nmodels:\n"
        "  - {model: m1, parameters: {weight: [0, 1]}}\n"
        "  - {model: m2, parameters: {weight: [0, 0.5, 1]}}",
        "models.0.parameters.weight",
        "a sum that can be divided by",
    ),
    "weights on the sphere that sum to zero": (
        "merge_method: multislerp\nmodels:\n"
        "  - {model: m1, parameters: {weight: 1}}\n"
        "  - {model: m2, parameters: {weight: -1}}",
        "models.0.parameters.weight",
        "set normalize_weights to false",
    ),
    "differences whose weights cancel": (
        "merge_method: ties\nbase_model: base\nmodels:\n"
        "  - {model: m1, parameters: {weight: 1}}\n"
        "  - {model: m2, parameters: {weight: -1}}",
        "models.0.parameters.weight",
        "set normalize to false",
    ),
    "a range that ends before it begins": (
        "merge_method: passthrough\nslices:\n"
        "  - sources: [{model: m1, layer_range: [0, -1]}]",
        "slices.0.sources.0.layer_range",
        "negative range [0, -1]",
    ),
    "no layer at all": (
        "merge_method: passthrough\nslices:\n"
        "  - sources: [{model: m1, layer_range: [2, 2]}]",
        "slices.0.sources.0.layer_range",
        "at least one layer",
    ),
    "a range beyond the model": (
        "merge_method: passthrough\nslices:\n"
        "  - sources: [{model: m1, layer_range: [0, 99]}]",
        "slices.0.sources.0.layer_range",
        "got [0, 99]",
    ),
    "a range of half layers": (
        "merge_method: passthrough\nslices:\n"
        "  - sources: [{model: m1, layer_range: [0, 1.5]}]",
        "slices.0.sources.0.layer_range.1",
        "whole number",
    ),
    "sources of different lengths": (
        "merge_method: linear\nparameters: {weight: 1}\nslices:\n  - sources:\n"
        "      - {model: m1, layer_range: [0, 2]}\n"
        "      - {model: m2, layer_range: [0, 1]}",
        "slices.0.sources",
        "as many layers from every source",
    ),
    "a model twice in a slice": (
        "merge_method: linear\nparameters: {weight: 1}\n"
        "models: [{model: m1}, {model: m2}, {model: m1}]",
        "models.2.model",
        "each model once",
    ),
    "no base": ("merge_method: ties" + TWO, "base_model", "differences from a base"),
    "a base that is not in a slice": (
        "merge_method: ties\nbase_model: base\nparameters: {weight: 1}\nslices:\n"
        "  - sources: [{model: m1, layer_range: [0, 2]}]",
        "slices.0.sources",
        "expected the base 'base' among them",
    ),
    "three models for slerp": (
        "merge_method: slerp\nbase_model: base\nparameters: {t: 0.5}\n"
        "models: [{model: m1}, {model: m2}]",
        "models",
        "exactly 2",
    ),
    "two models for passthrough": (
        "merge_method: passthrough\nmodels: [{model: m1}, {model: m2}]",
        "models",
        "takes exactly 1",
    ),
    "one model for Model Stock": (
        "merge_method: model_stock\nbase_model: base\nmodels: [{model: m1}]",
        "models",
        "at least 3",
    ),
    "two ways to say what is merged": (
        "merge_method: linear\nparameters: {weight: 1}\nslices:\n"
        "  - sources: [{model: m1, layer_range: [0, 2]}]\nmodels: [{model: m1}]",
        "slices",
        "exactly one of models, slices and modules",
    ),
    "nothing to merge": ("merge_method: linear", "", "got none"),
    "several modules": (
        "merge_method: linear\nparameters: {weight: 1}\nmodules:\n"
        "  text: {models: [{model: m1}]}\n  vision: {models: [{model: m1}]}",
        "modules",
        "expected one module",
    ),
    "a module without anything": (
        "merge_method: linear\nmodules: {default: {parameters: {weight: 1}}}",
        "modules.default",
        "expected models or slices",
    ),
    "tensors of another size": (
        "merge_method: linear\nparameters: {weight: 1}\n"
        "models: [{model: m1}, {model: wide}]",
        "models",
        "expected tensors of one shape",
    ),
    "models of other depths": (
        "merge_method: linear\nparameters: {weight: 1}\n"
        "models: [{model: m1}, {model: deep}]",
        "models",
        "as many layers each",
    ),
    "models of other positions": (
        "merge_method: linear\nparameters: {weight: 1}\n"
        "models: [{model: m1}, {model: turned}]",
        "",
        "rotary positions",
    ),
    "a model that is not there": (
        "merge_method: passthrough\nmodels: [{model: ./m7}]",
        "./m7",
        "expected a model",
    ),
    "an unknown element type": (
        "merge_method: linear\ndtype: bfloat61" + TWO,
        "dtype",
        "did you mean 'bfloat16'?",
    ),
    "a density above one": (
        "merge_method: ties\nbase_model: base\nmodels: [{model: m1}]\n"
        "parameters: {weight: 1, density: 1.5}",
        "parameters.density",
        "at most 1",
    ),
    "a spread that does not fit its density": (
        "merge_method: della\nbase_model: base\nmodels: [{model: m1}]\n"
        "parameters: {weight: 1, density: 0.9, epsilon: 0.2}",
        "models",
        "must lie between 0 and 1",
    ),
    "a value that is no number": (
        "merge_method: linear\nparameters: {weight: heavy}\nmodels: [{model: m1}]",
        "parameters.weight",
        "expected a finite number, got 'heavy'",
    ),
    "a number that is no switch": (
        "merge_method: linear\nparameters: {weight: 1, normalize: 0.5}\n"
        "models: [{model: m1}]",
        "parameters.normalize",
        "expected true or false",
    ),
    "no values in a list": (
        "merge_method: linear\nparameters: {weight: []}\nmodels: [{model: m1}]",
        "parameters.weight",
        "empty list",
    ),
    "values mixed with filters": (
        "merge_method: linear\nparameters: {weight: [{value: 1}, 2]}\n"
        "models: [{model: m1}]",
        "parameters.weight.1",
        "like its neighbours",
    ),
    "a filter without a value": (
        "merge_method: linear\nmodels: [{model: m1}]\n"
        "parameters: {weight: [{filter: mlp}]}",
        "parameters.weight.0.value",
        "it is required",
    ),
    "a large eps": (
        "merge_method: multislerp\nmodels: [{model: m1}, {model: m2}]\n"
        "parameters: {weight: 1, eps: 0.1}",
        "parameters.eps",
        "at most 1e-06",
    ),
    "a revision of a folder": (
        "merge_method: passthrough\nmodels: [{model: m1@main}]",
        "models.0.model",
        "is a folder",
    ),
    "two adapters": (
        "merge_method: passthrough\nmodels: [{model: m1+a+b}]",
        "models.0.model",
        "one adapter at most",
    ),
    "an adapter that is not there": (
        "merge_method: passthrough\nmodels: [{model: m1+./lora}]",
        "m1+./lora",
        "expected a model",
    ),
    "both tokenizer keys": (
        "merge_method: linear\ntokenizer_source: base\ntokenizer: {source: union}"
        + TWO,
        "tokenizer_source",
        "tokenizer or tokenizer_source",
    ),
    "a token from nowhere": (
        "merge_method: linear\ntokenizer: {source: union, tokens: {x: {source: "
        "{kind: model_token, model: m1}}}}" + TWO,
        "tokenizer.tokens.x.source",
        "token or token_id",
    ),
}


PASSED_OVER = {
    "unknown key": (
        "merge_method: linear\nbanana: 3" + TWO,
        "banana",
        "unknown key",
    ),
    "misspelt key": (
        "merge_method: linear\nbase_modle: base" + TWO,
        "base_modle",
        "did you mean 'base_model'?",
    ),
    "unknown parameter": (
        "merge_method: linear\nparameters: {normalise: true}" + TWO,
        "parameters.normalise",
        "did you mean 'normalize'?",
    ),
    "parameter of another method": (
        "merge_method: karcher\nmodels: [{model: m1}, {model: m2}]\n"
        "parameters: {weight: 1}",
        "parameters.weight",
        "unknown parameter of karcher",
    ),
    "parameter of a method without any": (
        "merge_method: arcee_fusion\nbase_model: m1\nmodels: [{model: m2}]\n"
        "parameters: {t: 1}",
        "parameters.t",
        "it has none",
    ),
    "one value for all given to an input": (
        "merge_method: slerp\nbase_model: m1\n"
        "models: [{model: m1}, {model: m2, parameters: {t: 0.5}}]\n"
        "parameters: {t: 0.1}",
        "models.1.parameters.t",
        "one value for all inputs",
    ),
    "a method inside a slice": (
        "merge_method: linear\nparameters: {weight: 1}\nslices:\n"
        "  - sources: [{model: m1, layer_range: [0, 2]}]\n    merge_method: slerp",
        "slices.0.merge_method",
        "one method for the whole merge",
    ),
    "a residual weight": (
        "merge_method: linear\nparameters: {weight: 1}\nslices:\n"
        "  - sources: [{model: m1, layer_range: [0, 2]}]\n    residual_weight: 0.5",
        "slices.0.residual_weight",
        "does nothing with it",
    ),
    "a misspelt filter": (
        "merge_method: linear\nmodels: [{model: m1}]\n"
        "parameters: {weight: [{fliter: mlp, value: 1}]}",
        "parameters.weight.0.fliter",
        "did you mean 'filter'?",
    ),
    "an architecture that is overridden": (
        "merge_method: passthrough\n"
        "models: [{model: {model: m1, override_architecture: X}}]",
        "models.0.model.override_architecture",
        "names and shapes tell",
    ),
    "layers of whole models": (
        "merge_method: linear\nparameters: {weight: 1}\n"
        "models: [{model: m1, layer_range: [0, 2]}, {model: m2}]",
        "models.0.layer_range",
        "models are merged whole",
    ),
    "a parameter of the base": (
        "merge_method: ties\nbase_model: base\nmodels:\n"
        "  - {model: base, parameters: {weight: 1}}\n"
        "  - {model: m1, parameters: {weight: 1}}",
        "models.0.parameters",
        "the base has no parameters",
    ),
    "a filter that matches nothing": (
        "merge_method: linear\nmodels: [{model: m1}]\n"
        "parameters: {weight: [{filter: block_sparse_moe, value: 1}, {value: 1}]}",
        "parameters.weight",
        "no tensor has 'block_sparse_moe' in its name",
    ),
    "a filter that is nearly a name": (
        "merge_method: linear\nmodels:\n"
        "  - {model: m1, parameters: {weight: [{filter: self_atn, value: 2}, {value: "
        "1}]}}",
        "models.0.parameters.weight",
        "did you mean 'self_attn'?",
    ),
    "a template that no model has": (
        "merge_method: passthrough\nchat_template: auto\nmodels: [{model: mute}]",
        "chat_template",
        "no model has a chat template",
    ),
}


def without_file(where: str) -> str:
    return where.removeprefix("merge.yml").removeprefix(": ")


@pytest.mark.parametrize("case", PASSED_OVER, ids=lambda case: case.replace(" ", "-"))
def test_what_mergekit_passes_over_is_a_warning_and_with_strict_a_mistake(case, folder):
    text, where, words = PASSED_OVER[case]
    file = folder / "merge.yml"
    file.write_text(text, encoding="utf-8")
    warned = {without_file(w.where): w.message for w in open_recipe(file).warnings}
    assert list(warned) == [where]
    assert words in warned[where]
    with pytest.raises(SpecError) as caught:
        open_recipe(file, strict=True)
    (found,) = caught.value.problems
    assert (without_file(found.where), found.message) == (where, warned[where])


def test_a_key_that_is_passed_over_does_not_change_the_merge(folder):
    plain, more = folder / "plain.yml", folder / "more.yml"
    text = "merge_method: karcher\nmodels: [{model: m1}, {model: m2}]"
    plain.write_text(text)
    more.write_text(f"banana: {{a: [1]}}\nname: mine\n{text}")
    assert open_recipe(plain).recipe.digest == open_recipe(more).recipe.digest


@pytest.mark.parametrize("case", ONE_MISTAKE, ids=lambda case: case.replace(" ", "-"))
def test_a_mistake_is_named_with_its_place(case, mistakes):
    text, where, words = ONE_MISTAKE[case]
    found = mistakes(text)
    assert where in found, found
    assert words in found[where]


def test_all_mistakes_are_listed_at_once(mistakes):
    found = mistakes(
        "merge_method: ties\n"
        "base_model: base\n"
        "dtype: float23\n"
        "models:\n"
        "  - {model: m1, parameters: {wieght: 0.5, density: 2}}\n"
        "  - {model: ./m7, parameters: {weight: much}}\n"
        "parameters: {lamda: 1}\n"
        "tokeniser: union\n"
    )
    assert set(found) == {
        "dtype",
        "models.0.parameters.wieght",
        "models.1.parameters.weight",
        "parameters.lamda",
        "tokeniser",
        "./m7",
    }


def test_mistakes_in_a_file_and_in_what_it_merges_are_listed_together(mistakes):
    found = mistakes(
        "merge_method: ties\nbase_model: base\ndtype: float23\n"
        "models: [{model: m1, parameters: {density: 2}}]\n"
    )
    assert set(found) == {
        "dtype",
        "models.0.parameters.density",
        "models.0.parameters.weight",
    }


@pytest.mark.parametrize("method", ["slerp", "ties", "linear", "passthrough"])
@pytest.mark.parametrize("base", ["[1]", "''", "{a: 1}"])
def test_a_base_that_is_no_model_is_named(mistakes, method, base):
    found = mistakes(f"merge_method: {method}\nbase_model: {base}\nt: 0.5\n" + TWO)
    assert any("base_model" in where for where in found), found
