"""The key ``vocabulary`` of studies and recipes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.adapters import tiny_adapter
from support.vocabularies import add_rows, add_tokens, permute

from evomerge.checkpoints import read_model
from evomerge.core.recipes.recipe import (
    Adapted,
    Checkpoint,
    Recipe,
    Transformed,
    contents,
)
from evomerge.errors import SpecError
from evomerge.merging.output.writer import write_model
from evomerge.merging.sources import Sources
from evomerge.specs.recipes import load_recipe
from evomerge.specs.studies.restored import restore
from evomerge.specs.studies.study_file import load_study, read_study
from evomerge.testing.models import tiny_model

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a model with other ids, one with more tokens, one with padding."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "moved", "more", "padded")):
        tiny_model(folder / name, seed=seed, n_layers=2)
    permute(folder / "moved")
    add_tokens(folder / "more", ["<tool>"])
    add_rows(folder / "padded", 32)
    return folder


def short(models: Path, *names: str, **further: Any) -> dict[str, Any]:
    return {
        "sources": {name: str(models / name) for name in names},
        "operator": "linear",
        "experts": list(names),
        **further,
    }


def test_different_tokenizers_are_refused_with_the_name_of_the_key(
    models: Path, write: Write
) -> None:
    with pytest.raises(SpecError, match="Say with the key `vocabulary` whose tokens"):
        load_recipe(write(short(models, "base", "moved")))


@pytest.mark.parametrize(
    ("vocabulary", "transformed", "rows"),
    [
        ("base", {"more", "moved"}, 288),
        ("union", {"base", "more", "moved"}, 289),
        ("more", {"base", "moved"}, 289),
        ({"source": "moved", "missing": "zero"}, {"base", "more"}, 288),
        ({"source": "base", "pad_to_multiple_of": 64}, {"base", "more", "moved"}, 320),
    ],
)
def test_models_that_lack_the_vocabulary_are_transformed_and_merge(
    models: Path,
    write: Write,
    tmp_path: Path,
    vocabulary: Any,
    transformed: set[str],
    rows: int,
) -> None:
    names = ("base", "moved", "more")
    recipe, folders = load_recipe(write(short(models, *names, vocabulary=vocabulary)))
    found = {n for n, source in recipe.inputs if isinstance(source, Transformed)}
    assert found == transformed
    assert Recipe.from_json(json.loads(recipe.text)).digest == recipe.digest
    with Sources(folders) as sources:
        out = write_model(recipe, sources, tmp_path / "out").path
    merged = read_model(out)
    assert merged.vocab_size == rows
    again, found_again = load_recipe(_canonical(out, models, names))
    assert again.digest == recipe.digest
    assert found_again == folders


def _canonical(out: Path, models: Path, names: tuple[str, ...]) -> Path:
    """Give a written recipe the folders of its models."""
    file = out / "again.json"
    data = json.loads((out / "recipe.json").read_text(encoding="utf-8"))
    data["paths"] = {name: str(models / name) for name in names}
    file.write_text(json.dumps(data), encoding="utf-8")
    return file


def test_a_recipe_of_one_model_still_needs_all_that_gave_its_vocabulary(
    models: Path, write: Write, tmp_path: Path
) -> None:
    written = short(models, "base", "moved", "more", vocabulary="union")
    recipe, folders = load_recipe(write({**written, "experts": ["moved"]}))
    assert [name for name, _ in recipe.inputs] == ["moved"]
    assert set(contents(recipe.input("moved"))) == set(folders)


def test_padding_alone_needs_no_key(models: Path, write: Write) -> None:
    recipe, _ = load_recipe(write(short(models, "base", "padded")))
    assert isinstance(recipe.input("base"), Checkpoint)
    cut = recipe.input("padded")
    assert isinstance(cut, Transformed)
    assert dict(cut.settings)["donor"] == "base"
    recipe, _ = load_recipe(write(short(models, "base", "padded", frame="padded")))
    assert isinstance(recipe.input("padded"), Checkpoint)
    assert isinstance(recipe.input("base"), Transformed)


def test_one_tokenizer_is_left_alone(zoo: Path, write: Write) -> None:
    plain, _ = load_recipe(write(short(zoo, "base", "math")))
    for vocabulary in ("base", "union", "math"):
        said, _ = load_recipe(write(short(zoo, "base", "math", vocabulary=vocabulary)))
        assert said.digest == plain.digest


def test_an_adapted_model_is_brought_to_a_vocabulary(
    models: Path, write: Write, tmp_path: Path
) -> None:
    adapter = tiny_adapter(tmp_path / "lora", models / "moved")
    written = short(models, "base", "moved", vocabulary="base")
    written["sources"]["moved"] += f"+{adapter}"
    recipe, folders = load_recipe(write(written))
    source = recipe.input("moved")
    assert isinstance(source, Transformed)
    assert isinstance(source.of, Adapted)
    with Sources(folders) as sources:
        assert write_model(recipe, sources, tmp_path / "out").size_bytes > 0


def test_a_study_keeps_its_vocabulary(
    models: Path, minimal: dict[str, Any], write: Write
) -> None:
    names = ("base", "moved", "more")
    sources = {name: str(models / name) for name in names}
    file = write({**minimal, "sources": sources, "vocabulary": "union"})
    study = read_study(file)
    assert all(isinstance(source, Transformed) for source in study.inputs.values())
    for baseline in study.baselines:
        for _, source in baseline.recipe.inputs:
            assert source in study.inputs.values()
    again = restore(study.config, study.allowance)
    assert again.config == study.config
    assert again.inputs == study.inputs


@pytest.mark.parametrize("vocabulary", ["moth", {"source": "moth"}])
def test_an_unknown_source_is_seen_before_any_model_is_read(
    minimal: dict[str, Any], write: Write, vocabulary: Any
) -> None:
    file = write({**minimal, "vocabulary": vocabulary})
    with pytest.raises(SpecError) as caught:
        load_study(file)
    said = str(caught.value)
    assert "vocabulary.source: unknown source 'moth'" in said
    assert "did you mean 'math'?" in said


def test_an_unknown_source_of_a_recipe_is_told(models: Path, write: Write) -> None:
    written = short(models, "base", "moved", vocabulary="mved")
    with pytest.raises(SpecError, match=r"did you mean 'moved'") as caught:
        load_recipe(write(written))
    assert "different tokenizers" not in str(caught.value)


def test_other_differences_are_refused_all_the_same(
    models: Path, zoo: Path, write: Write
) -> None:
    written = short(models, "base", "moved", vocabulary="base")
    written["sources"]["wide"] = str(zoo / "wide")
    with pytest.raises(SpecError, match="hidden size 64"):
        load_recipe(write(written))


def test_a_model_with_no_tokenizer_to_align_by_is_told(
    models: Path, write: Write, tmp_path: Path
) -> None:
    bare = tiny_model(tmp_path / "bare", n_layers=2)
    (bare / "tokenizer.json").unlink()
    written = short(models, "base", vocabulary="base")
    written["sources"]["bare"] = str(bare)
    written["experts"] = ["base", "bare"]
    with pytest.raises(SpecError, match=r"has no tokenizer\.json, by which"):
        load_recipe(write(written))
