"""What files are warned of where tokenizers and chat templates of models differ."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.adapters import adapter_tensors, tiny_adapter, write_adapter
from support.vocabularies import (
    EMBED,
    add_rows,
    add_tokens,
    edit_json,
    permute,
    read_tokenizer,
    write_tokenizer_json,
)
from tokenizers import Tokenizer

from evomerge.checkpoints.tokenizers.tokenizer import read_vocabulary
from evomerge.core.recipes.recipe import Transformed
from evomerge.errors import SpecError
from evomerge.merging.output.writer import write_model
from evomerge.merging.sources import Sources
from evomerge.specs.mergekit import write_mergekit
from evomerge.specs.recipes import OpenedRecipe, load_recipe, open_recipe
from evomerge.specs.studies.study_file import read_study
from evomerge.testing.models import tiny_model

Write = Callable[..., Path]
CHAT = "tokenizer_config.json"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two models of one tokenizer."""
    base, other = (
        tiny_model(tmp_path / name, n_layers=1, seed=seed)
        for seed, name in enumerate(("base", "other"))
    )
    return base, other


def short(*folders: Path, **further: Any) -> dict[str, Any]:
    names = [folder.name for folder in folders]
    return {
        "sources": {folder.name: str(folder) for folder in folders},
        "operator": "linear",
        "experts": names,
        "frame": names[0],
        **further,
    }


def warned(opened: OpenedRecipe) -> str:
    return "\n".join(map(str, opened.warnings))


def rewrite(folder: Path, **changes: Any) -> None:
    write_tokenizer_json(folder, {**read_tokenizer(folder), **changes})


def merged(file: Path, out: Path) -> Path:
    recipe, folders = load_recipe(file)
    with Sources(folders) as sources:
        return write_model(recipe, sources, out).path


def test_models_of_one_tokenizer_are_not_warned_of(
    pair: tuple[Path, Path], write: Write
) -> None:
    assert open_recipe(write(short(*pair))).warnings == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"type": "Sequence", "normalizers": []}},
        {"truncation": None, "padding": None, "version": "1.0"},
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {
                        "type": "ByteLevel",
                        "add_prefix_space": False,
                        "trim_offsets": False,
                    }
                ],
            }
        },
        {"post_processor": {"type": "ByteLevel", "trim_offsets": True}},
    ],
)
def test_other_words_for_one_tokenizer_merge_without_a_warning(
    pair: tuple[Path, Path], write: Write, changes: dict[str, Any]
) -> None:
    rewrite(pair[1], **changes)
    opened = open_recipe(write(short(*pair)))
    assert opened.warnings == ()
    assert not any(isinstance(i, Transformed) for _, i in opened.recipe.inputs)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"normalizer": {"type": "NFC"}}, "normalizer"),
        ({"pre_tokenizer": {"type": "Digits", "individual_digits": True}}, "pre-tok"),
        (
            {
                "post_processor": {
                    "type": "BertProcessing",
                    "sep": ["</s>", 2],
                    "cls": ["<s>", 1],
                }
            },
            "post-processor",
        ),
    ],
)
def test_a_tokenizer_that_only_cuts_otherwise_is_a_warning(
    pair: tuple[Path, Path], write: Write, changes: dict[str, Any], part: str
) -> None:
    rewrite(pair[1], **changes)
    said = warned(open_recipe(write(short(*pair))))
    assert "sources.other: it cuts text in another way than 'base'" in said
    assert part in said
    assert "every token has the same row" in said
    assert "The merge has the tokenizer of 'base'" in said
    turned = short(*pair)
    turned["frame"] = "other"
    said = warned(open_recipe(write(turned)))
    assert "sources.base: it cuts text in another way than 'other'" in said


def test_tokens_of_other_rows_are_refused_by_name(
    pair: tuple[Path, Path], write: Write
) -> None:
    data = read_tokenizer(pair[1])
    vocab = data["model"]["vocab"]
    vocab["th"], vocab["at"] = vocab["at"], vocab["th"]
    write_tokenizer_json(pair[1], data)
    with pytest.raises(
        SpecError, match="different tokenizers: 2 tokens have"
    ) as caught:
        open_recipe(write(short(*pair)))
    assert f"'th' ({vocab['th']} in 'other', {vocab['at']} in 'base')" in str(
        caught.value
    )


def test_a_token_that_only_one_has_is_named_too(
    pair: tuple[Path, Path], write: Write
) -> None:
    for folder in pair:
        add_rows(folder, 32)
    data = read_tokenizer(pair[1])
    data["added_tokens"].append(
        {**data["added_tokens"][0], "content": "<x>", "id": 288}
    )
    write_tokenizer_json(pair[1], data)
    with pytest.raises(SpecError, match=r"'<x>' \(288 in 'other', none in 'base'\)"):
        open_recipe(write(short(*pair)))


def test_old_files_merge_and_the_result_can_be_read(
    pair: tuple[Path, Path], write: Write, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    for folder in pair:
        add_tokens(folder, ["<tool>"])
    data = read_tokenizer(pair[0])
    make_old(pair[0])
    opened = open_recipe(write(short(*pair)))
    assert opened.warnings == ()
    out = merged(write(short(*pair)), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(out)
    text = "the cat <s> sat <tool> 12 \u00e9"
    ids = Tokenizer.from_str(json.dumps(data)).encode(text).ids
    assert tokenizer(text)["input_ids"] == ids


def make_old(folder: Path) -> None:
    """Turn a tokenizer into the files of older days."""
    data = read_tokenizer(folder)
    vocab = data["model"]["vocab"]
    merges = [" ".join(m) for m in data["model"]["merges"]]
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    ids = {t["content"]: t["id"] for t in data["added_tokens"]}
    (folder / "added_tokens.json").write_text(json.dumps(ids))
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize("vocabulary", ["base", "union", "other"])
def test_old_files_are_brought_to_one_vocabulary(
    pair: tuple[Path, Path], write: Write, tmp_path: Path, vocabulary: str
) -> None:
    for folder in pair:
        add_tokens(folder, ["<tool>"])
    permute(pair[0])
    wanted = read_vocabulary(pair[1 if vocabulary == "other" else 0]).ids
    make_old(pair[0])
    out = merged(write(short(*pair, vocabulary=vocabulary)), tmp_path / "out")
    assert read_vocabulary(out).ids == wanted
    rows = load_file(out / "model.safetensors")[EMBED]
    parts = [load_file(folder / "model.safetensors")[EMBED] for folder in pair]
    ids = [read_vocabulary(folder).ids for folder in pair]
    for token in ("the", "a", "<s>", "<tool>"):
        mean = sum(part[own[token]] for part, own in zip(parts, ids, strict=True)) / 2
        torch.testing.assert_close(rows[wanted[token]], mean)


def test_old_files_that_cannot_be_compared_name_what_lacks(
    pair: tuple[Path, Path], write: Write
) -> None:
    (pair[1] / "tokenizer.json").unlink()
    (pair[1] / "tokenizer.model").write_text("IQ== 0\n")
    with pytest.raises(SpecError, match=r"has no tokenizer\.json, by which") as caught:
        open_recipe(write(short(*pair)))
    assert "AutoTokenizer.from_pretrained(folder)" in str(caught.value)


def test_ids_beyond_the_rows_are_named(pair: tuple[Path, Path], write: Write) -> None:
    (pair[1] / "added_tokens.json").write_text('{"[PAD]": 288}')
    said = warned(open_recipe(write(short(*pair))))
    assert "sources.other: 1 token has ids beyond the 288 rows" in said
    assert "'[PAD]' (288)" in said
    for folder in pair:
        add_tokens(folder, ["<a>", "<b>"])
        edit_json(folder / "config.json", lambda found: {**found, "vocab_size": 288})
        tensors = {
            n: t[:288] if len(t) == 290 else t for n, t in loaded(folder).items()
        }
        save(folder, tensors)
    said = warned(open_recipe(write(short(*pair))))
    assert "2 tokens have ids beyond the 288 rows" in said
    assert "sources.base" in said


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    tensors = load_file(folder / "model.safetensors")
    return {name: tensor.clone() for name, tensor in tensors.items()}


def save(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    kept = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def test_rows_after_the_last_token_are_usual(
    pair: tuple[Path, Path], write: Write
) -> None:
    for folder in pair:
        add_rows(folder, 32)
    assert open_recipe(write(short(*pair))).warnings == ()


@pytest.mark.parametrize("where", ["config", "jinja", "further", "listed"])
def test_another_chat_template_is_named(
    pair: tuple[Path, Path], write: Write, tmp_path: Path, where: str
) -> None:
    other = pair[1]
    if where == "config":
        edit_json(other / CHAT, lambda found: {**found, "chat_template": "{{ x }}"})
    elif where == "jinja":
        (other / "chat_template.jinja").write_text("{{ x }}\n")
    elif where == "further":
        (other / "additional_chat_templates").mkdir()
        (other / "additional_chat_templates" / "tool_use.jinja").write_text("{{ y }}")
    else:
        both = [{"name": n, "template": "{{ z }}"} for n in ("default", "tool_use")]
        edit_json(other / CHAT, lambda found: {**found, "chat_template": both})
    said = warned(open_recipe(write(short(*pair))))
    assert "sources.other: it has another chat template than 'base'" in said
    assert ("tool_use" in said) == (where in ("further", "listed"))
    assert "The merge has that of 'base'" in said
    out = merged(write({**short(*pair), "frame": "other"}), tmp_path / "out")
    file = Path("additional_chat_templates", "tool_use.jinja")
    assert (out / file).is_file() == (where == "further")


def test_one_template_in_two_places_is_one(
    pair: tuple[Path, Path], write: Write
) -> None:
    said = json.loads((pair[1] / CHAT).read_text())
    (pair[1] / "chat_template.jinja").write_text(said.pop("chat_template") + "\n")
    (pair[1] / CHAT).write_text(json.dumps(said))
    assert open_recipe(write(short(*pair))).warnings == ()


def test_a_frame_without_a_chat_template_leaves_the_merge_without(
    pair: tuple[Path, Path], write: Write, minimal: dict[str, Any]
) -> None:
    edit_json(
        pair[0] / CHAT,
        lambda found: {k: v for k, v in found.items() if k != "chat_template"},
    )
    said = warned(open_recipe(write(short(*pair))))
    assert "it has a chat template, unlike 'base'. The merge has none." in said
    minimal["sources"] = {folder.name: str(folder) for folder in pair}
    minimal["space"]["experts"] = ["other"]
    study = read_study(write(minimal))
    assert "unlike 'base'" in "\n".join(map(str, study.warnings))


def adapted(pair: tuple[Path, Path], folder: Path, **files: str) -> dict[str, Any]:
    tiny_adapter(folder, pair[0])
    for name in ("tokenizer.json", CHAT):
        shutil.copy(pair[0] / name, folder / name)
    return {
        "sources": {"base": str(pair[0]), "tuned": f"{pair[0]}+{folder}"},
        "operator": "linear",
        "experts": ["base", "tuned"],
        "frame": "base",
    }


def test_an_adapters_own_tokenizer_and_template_are_named(
    pair: tuple[Path, Path], write: Write, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    written = write(adapted(pair, adapter))
    assert open_recipe(written).warnings == ()
    rewrite(adapter, normalizer={"type": "NFC"})
    said = warned(open_recipe(written))
    assert "sources.tuned: its adapter cuts text in another way than 'base'" in said
    (adapter / "chat_template.jinja").write_text("{{ chat }}")
    said = warned(open_recipe(written))
    assert "its adapter has another chat template than 'base'" in said
    data = read_tokenizer(adapter)
    data["added_tokens"].append(
        {**data["added_tokens"][0], "content": "<x>", "id": 288}
    )
    write_tokenizer_json(adapter, data)
    said = warned(open_recipe(written))
    assert "its adapter has another tokenizer than its base: 1 token has" in said
    assert "'<x>' (288 in the adapter, none in the base)" in said
    assert "Only the adapter's weights are used" in said


def test_an_adapter_with_rows_for_new_tokens_is_refused_by_their_names(
    pair: tuple[Path, Path], write: Write, tmp_path: Path
) -> None:
    data = adapted(pair, tmp_path / "first")
    tensors = adapter_tensors(tmp_path / "first")
    tensors["base_model.model.model.embed_tokens.weight"] = torch.zeros(290, 32)
    adapter = write_adapter(tmp_path / "second", tensors, {"r": 4})
    for name in ("tokenizer.json", CHAT):
        shutil.copy(pair[0] / name, adapter / name)
    rewrite(
        adapter,
        added_tokens=[
            *read_tokenizer(adapter)["added_tokens"],
            *(
                {**read_tokenizer(adapter)["added_tokens"][0], "content": t, "id": i}
                for t, i in (("<a>", 288), ("<b>", 289))
            ),
        ],
    )
    data["sources"]["tuned"] = f"{pair[0]}+{adapter}"
    with pytest.raises(SpecError, match=r"\[290, 32\]") as caught:
        open_recipe(write(data))
    assert "'<a>' (288), '<b>' (289)" in str(caught.value)


def test_stacks_and_recipes_of_our_own_are_warned_of_too(
    pair: tuple[Path, Path], write: Write, tmp_path: Path
) -> None:
    rewrite(pair[1], normalizer={"type": "NFC"})
    sources = {folder.name: str(folder) for folder in pair}
    slices = [{"source": name, "layers": [0, 1]} for name in sources]
    said = warned(open_recipe(write({"sources": sources, "stack": {"slices": slices}})))
    assert "cuts text in another way than 'base'" in said
    out = merged(write(short(*pair)), tmp_path / "out")
    data = json.loads((out / "recipe.json").read_text())
    file = tmp_path / "again.json"
    file.write_text(json.dumps({**data, "paths": sources}))
    said = warned(open_recipe(file))
    assert "paths.other: it cuts text in another way than 'base'" in said


def mergekit(tmp_path: Path, source: Path, *folders: Path) -> Path:
    file = tmp_path / "merge.yml"
    data = {
        "merge_method": "task_arithmetic",
        "base_model": str(folders[0]),
        "models": [
            {"model": str(folder), "parameters": {"weight": 0.5}}
            for folder in folders[1:]
        ],
        "tokenizer_source": str(source),
        "dtype": "float32",
    }
    file.write_text(yaml.safe_dump(data))
    return file


def test_a_tokenizer_source_that_is_not_merged_gives_no_rows(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    third = tiny_model(tmp_path / "third", n_layers=1, seed=5)
    permute(third)
    add_tokens(third, ["<x>", "<y>"])
    file = mergekit(tmp_path, third, *pair)
    opened = open_recipe(file)
    said = warned(opened)
    assert "tokenizer_source: 'third' gives the tokenizer but is not merged" in said
    assert "2 that no model has get zeros: '<x>', '<y>'." in said
    out = merged(file, tmp_path / "out")
    rows = load_file(out / "model.safetensors")[EMBED]
    ids, own = read_vocabulary(out).ids, read_vocabulary(pair[0]).ids
    assert not rows[[ids["<x>"], ids["<y>"]]].any()
    parts = [load_file(folder / "model.safetensors")[EMBED] for folder in pair]
    for token in ("the", "<s>", "a"):
        a, b = (part[own[token]] for part in parts)
        torch.testing.assert_close(rows[ids[token]], a + 0.5 * (b - a))
    written = write_mergekit(opened.recipe, opened.models)
    assert written.losses == ()
    again = tmp_path / "again.yml"
    again.write_text(yaml.safe_dump(dict(written.data)))
    assert open_recipe(again).recipe.digest == opened.recipe.digest
    own_way = open_recipe(file, profile="default")
    assert "'third' included" in warned(own_way)
    assert own_way.recipe.digest != opened.recipe.digest
    assert write_mergekit(own_way.recipe, own_way.models).losses != ()


def test_a_tokenizer_source_that_is_merged_needs_no_word(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    permute(pair[1])
    assert open_recipe(mergekit(tmp_path, pair[1], *pair)).warnings == ()
