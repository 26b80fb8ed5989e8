"""Files of several merges or of none, chat templates, and where paths start."""

import os

import jinja2
import pytest
import torch

from evomerge.core.recipes.recipe import Nested
from evomerge.errors import SpecError
from evomerge.merging.materialise import materialise
from evomerge.merging.sources import Sources
from evomerge.specs.canonical import own_text
from evomerge.specs.mergekit.tokenizer import KNOWN
from evomerge.specs.recipes import open_recipe
from evomerge.specs.studies.study_file import load_parts
from evomerge.testing.models import tiny_model

HALVES = "merge_method: linear\nparameters: {weight: 1}\ndtype: float32\n"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "a", "b")):
        tiny_model(folder / name, seed=seed)
    return folder


@pytest.fixture
def read(models):
    def _read(text, **more):
        file = models / "merge.yml"
        file.write_text(text, encoding="utf-8")
        return open_recipe(file, **more)

    return _read


def tensors(opened):
    with Sources(opened.folders) as sources:
        return {k: v.clone() for k, v in materialise(opened.recipe, sources)}


def stored(models, name):
    return tensors_of(models / name)


def tensors_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def listed(*names):
    return "models:\n" + "".join(f"- {{model: {name}}}\n" for name in names)


def test_a_document_merges_the_result_of_an_earlier_one(read, models):
    opened = read(
        f"name: one\n{HALVES}{listed('a', 'b')}---\n{HALVES}{listed('one', 'base')}"
    )
    a, b, base = (stored(models, name) for name in ("a", "b", "base"))
    for name, merged in tensors(opened).items():
        wanted = ((a[name] + b[name]) / 2 + base[name]) / 2
        torch.testing.assert_close(merged, wanted, rtol=0, atol=1e-7)
    assert isinstance(dict(opened.recipe.inputs)["one"], Nested)


def test_documents_may_stand_in_any_order_and_the_one_without_a_name_is_the_result(
    read,
):
    one, two = f"name: one\n{HALVES}{listed('a', 'b')}", HALVES + listed("one", "base")
    assert read(f"{one}---\n{two}").recipe == read(f"{two}---\n{one}").recipe


def test_three_documents_and_the_last_is_the_result_where_all_have_names(read, models):
    opened = read(
        f"name: one\n{HALVES}{listed('a', 'b')}---\n"
        f"name: two\n{HALVES}{listed('one', 'base')}---\n"
        "name: three\nmerge_method: task_arithmetic\nbase_model: base\n"
        "dtype: float32\nmodels: [{model: two, parameters: {weight: 2}}]\n"
    )
    base = stored(models, "base")
    mean = tensors(read(HALVES + listed("a", "b")))
    for name, merged in tensors(opened).items():
        torch.testing.assert_close(merged, mean[name], rtol=0, atol=1e-6)
        assert not torch.equal(merged, base[name])


def test_what_an_earlier_document_gives_is_rounded_to_its_type(read):
    half = HALVES.replace("float32", "bfloat16")
    opened = read(
        f"name: one\n{half}{listed('a', 'b')}---\n"
        "merge_method: passthrough\ndtype: float32\nmodels: [{model: one}]\n"
    )
    mean = tensors(read(HALVES + listed("a", "b")))
    for name, merged in tensors(opened).items():
        assert torch.equal(merged, mean[name].bfloat16().float()), name


def test_several_merges_come_back_from_a_recipe_of_our_own(read, models):
    opened = read(
        f"name: one\n{HALVES}{listed('a', 'b')}---\n{HALVES}{listed('one', 'base')}"
    )
    file = models / "own.yaml"
    file.write_text(own_text(opened.recipe, opened.models), encoding="utf-8")
    again = open_recipe(file)
    assert again.recipe.digest == opened.recipe.digest
    assert set(again.folders) == set(opened.folders)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{HALVES}{listed('a')}---\n{HALVES}{listed('b')}", "without a name"),
        (f"name: x\n{HALVES}{listed('a')}---\nname: x\n{HALVES}{listed('b')}", "'x'"),
        (
            f"name: x\n{HALVES}{listed('y')}---\nname: y\n{HALVES}{listed('x')}",
            "in a circle: y -> x -> y",
        ),
        (f"name: x\n{HALVES}{listed('a')}---\nsources: {{}}\n", "document 2"),
        (
            f"name: x\n{HALVES}{listed('a')}---\n{HALVES}{listed('x+./b')}",
            "either side",
        ),
        (f"name: x\n{HALVES}{listed('c')}---\n{HALVES}{listed('x')}", "document 1"),
        (
            f"name: x\n{HALVES}{listed('a')}---\n{HALVES}tokenizer: {{source: union}}\n"
            f"{listed('x', 'b')}",
            "'x' is a merge of this file",
        ),
    ],
    ids=[
        "two-results",
        "one-name-twice",
        "circle",
        "no-merge",
        "adapter",
        "missing",
        "tokenizer",
    ],
)
def test_documents_that_make_no_merge_are_refused(text, words, read):
    with pytest.raises(SpecError, match=r"merge\.yml") as caught:
        read(text)
    assert words in str(caught.value)


OTHERS = {
    "mixture": (
        "base_model: a\ngate_mode: hidden\nexperts: [{source_model: b}]\n",
        "mergekit-moe",
    ),
    "mixture without a gate": ("experts: [{source_model: b}]\n", "of a mixture"),
    "search": ("genome: {models: [a, b]}\ntasks: [{name: x}]\n", "study file"),
    "old stack": ("layer_slices: [{model: a, start: 0, end: 2}]\n", "passthrough"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_file_of_mergekit_that_is_no_merge_is_told_what_to_do(case, read, models):
    text, words = OTHERS[case]
    with pytest.raises(SpecError, match=words):
        read(text)
    with pytest.raises(SpecError, match=words):
        load_parts(models / "merge.yml")


def test_an_empty_last_slice_says_whose_head_is_taken(read, models):
    opened = read(
        "merge_method: passthrough\ndtype: float32\nslices:\n"
        "- sources: [{model: b, layer_range: [0, 0]}]\n"
        "- sources: [{model: a, layer_range: [0, 3]}]\n"
        "- sources: [{model: base, layer_range: [4, 4]}]\n"
    )
    merged = tensors(opened)
    assert opened.recipe.slots.__len__() == 3
    for name, whose in (
        ("model.embed_tokens.weight", "b"),
        ("model.layers.2.mlp.up_proj.weight", "a"),
        ("model.norm.weight", "base"),
        ("lm_head.weight", "base"),
    ):
        assert torch.equal(merged[name], stored(models, whose)[name]), name


def test_relative_paths_start_in_the_current_folder_and_then_beside_the_file(
    read, models, tmp_path, monkeypatch
):
    other = tiny_model(tmp_path / "a", seed=9)
    monkeypatch.chdir(tmp_path)
    text = "merge_method: passthrough\nmodels: [{model: ./a}]\n"
    opened = read(text)
    assert opened.models["a"].path == other
    (warning,) = opened.warnings
    assert str(models / "a") in warning.message
    assert read(text.replace("./a", "b")).models["b"].path == models / "b"
    above = os.path.relpath(models / "b", tmp_path)
    assert read(text.replace("./a", above)).models["b"].path == models / "b"


CHAT = [
    {"role": "system", "content": " be kind "},
    {"role": "user", "content": "hello\nthere "},
    {"role": "assistant", "content": "hi"},
    {"role": "user", "content": "bye"},
]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("chatml", "<|im_start|>system\n be kind <|im_end|>\n<|im_start|>user\n"),
        (
            "llama3",
            "<B><|start_header_id|>system<|end_header_id|>\n\nbe kind<|eot_id|>",
        ),
        ("mistral", "<B> [INST]  be kind \n\nhello\nthere  [/INST] hi<E> [INST] bye"),
        ("alpaca", "be kind\n\n### Instruction:\nhello\nthere\n\n### Response:\nhi"),
        ("exaone", "    [|system|] be kind \n        [|endofturn|]\n\n    [|user|]"),
    ],
)
def test_a_known_template_is_written_out(name, said, read):
    text = f"merge_method: passthrough\nchat_template: {name}\nmodels: [{{model: a}}]\n"
    template = read(text).chat_template
    assert template == KNOWN[name]
    made = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    found = made.from_string(template).render(
        messages=CHAT, bos_token="<B>", eos_token="<E>", add_generation_prompt=True
    )
    assert found.startswith(said), found


def test_the_template_that_most_models_have_is_taken(read, models, tmp_path):
    for seed, name in enumerate(("x", "y")):
        folder = tiny_model(tmp_path / name, seed=seed)
        (folder / "chat_template.jinja").write_text("{{ messages }} of two\n")
    text = "merge_method: karcher\nchat_template: auto\nmodels:\n"
    names = [models / "a", tmp_path / "x", tmp_path / "y"]
    opened = read(text + "".join(f"- {{model: {name}}}\n" for name in names))
    assert opened.chat_template == "{{ messages }} of two"


def test_a_template_of_ones_own_is_taken_and_a_word_is_none(read):
    text = "merge_method: passthrough\nmodels: [{model: a}]\nchat_template: "
    own = "{{ messages[0].content }} and so on"
    assert read(f"{text}'{own}'").chat_template == own
    with pytest.raises(SpecError, match="chatml"):
        read(f"{text}chatmll")
