"""Rows brought to one vocabulary: undone permutations, own tokens, padding."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.vocabularies import (
    EMBED,
    HEAD,
    add_rows,
    add_tokens,
    edit_rows,
    permute,
    read_tokenizer,
)

from evomerge.checkpoints import Model, read_model
from evomerge.checkpoints.alignment import TRANSFORM, Plan, align
from evomerge.core.recipes.recipe import (
    Checkpoint,
    Input,
    Operation,
    Recipe,
    Slot,
    Transformed,
)
from evomerge.errors import RecipeError
from evomerge.merging.materialise import materialise, merged_config
from evomerge.merging.output.writer import write_model
from evomerge.merging.sources import Sources
from evomerge.testing.models import tiny_model


class Family:
    """Models in folders, brought to one vocabulary by a plan."""

    def __init__(self, plan: Plan, **folders: Path) -> None:
        self.models: dict[str, Model] = {n: read_model(f) for n, f in folders.items()}
        self.plan = plan
        paths = {m.fingerprint: m.path for m in self.models.values()}
        self.sources = Sources(paths)

    def input(self, name: str) -> Input:
        among = {n: Checkpoint(m.fingerprint) for n, m in self.models.items()}
        return Transformed(
            among[name],
            TRANSFORM,
            align(self.models, self.plan).statistics,
            self.plan.settings(),
            tuple(among.items()),
        )

    def recipe(self, **weights: float) -> Recipe:
        names = tuple(weights)
        mean = Operation("linear", names, each=(("weight", tuple(weights.values())),))
        roles = (("*", mean),)
        n_layers = self.models[names[0]].n_layers
        return Recipe(
            frame=names[0],
            dtype="float32",
            inputs=tuple((name, self.input(name)) for name in names),
            embed=Slot(roles),
            slots=tuple(
                Slot(roles, layers=tuple((name, i) for name in names))
                for i in range(n_layers)
            ),
            head=Slot(roles),
        )

    def merged(self, **weights: float) -> dict[str, torch.Tensor]:
        return dict(materialise(self.recipe(**weights), self.sources))


def stored(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    return tensors


@pytest.mark.parametrize("tied", [False, True])
def test_a_permutation_of_ids_is_undone_exactly(tmp_path: Path, tied: bool) -> None:
    one = tiny_model(tmp_path / "one", n_layers=1, tied=tied)
    two = tiny_model(tmp_path / "two", n_layers=1, tied=tied)
    permute(two)
    family = Family(Plan("one"), one=one, two=two)
    assert (
        family.models["two"].tokenizer_digest != family.models["one"].tokenizer_digest
    )
    found = family.merged(two=1.0)
    for name, expected in stored(one).items():
        assert torch.equal(found[name], expected), name
    both = family.merged(one=0.5, two=0.5)
    assert torch.equal(both[EMBED], stored(one)[EMBED])


def test_one_models_vocabulary_leaves_out_the_others_tokens(tmp_path: Path) -> None:
    one = tiny_model(tmp_path / "one", n_layers=1)
    two = tiny_model(tmp_path / "two", n_layers=1, seed=1)
    add_tokens(two, ["<tool>", "<call>"])
    family = Family(Plan("one"), one=one, two=two)
    found = family.merged(two=1.0)
    assert torch.equal(found[EMBED], stored(two)[EMBED][:288])
    assert torch.equal(found[HEAD], stored(two)[HEAD][:288])
    family = Family(Plan("two", base="one"), one=one, two=two)
    found = family.merged(one=1.0)
    # Nobody but the owner has the new tokens' rows, so the owner's are taken.
    assert torch.equal(found[EMBED][:288], stored(one)[EMBED])
    assert torch.equal(found[EMBED][288:], stored(two)[EMBED][288:])


def three(tmp_path: Path) -> dict[str, Path]:
    """A base, and two models with tokens of their own and one that both added."""
    folders = {}
    for seed, name in enumerate(("base", "one", "two")):
        folders[name] = tiny_model(tmp_path / name, n_layers=1, seed=seed)
    add_tokens(folders["one"], ["<shared>", "<one>"], seed=1)
    add_tokens(folders["two"], ["<two>", "<shared>"], seed=2)
    return folders


def test_a_union_keeps_every_models_rows_for_its_own_tokens(tmp_path: Path) -> None:
    folders = three(tmp_path)
    family = Family(Plan("base", union=True, base="base"), **folders)
    assert align(family.models, family.plan).rows == 291
    rows = {n: stored(folder)[EMBED] for n, folder in folders.items()}
    found = {name: family.merged(**{name: 1.0})[EMBED] for name in folders}
    shared, one, two = 288, 289, 290
    assert torch.equal(found["one"][shared], rows["one"][288])
    assert torch.equal(found["two"][shared], rows["two"][289])
    for name in folders:
        assert torch.equal(found[name][:288], rows[name][:288])
        assert torch.equal(found[name][one], rows["one"][289])
        assert torch.equal(found[name][two], rows["two"][288])
    mean = (rows["one"][288] + rows["two"][289]) / 2
    assert torch.allclose(found["base"][shared], mean, atol=1e-7)


@pytest.mark.parametrize(
    ("missing", "expected"), [("owner", "base"), ("mean", "mean"), ("zero", "zero")]
)
def test_a_missing_row_is_filled_as_asked(
    tmp_path: Path, missing: str, expected: str
) -> None:
    folders = {
        name: tiny_model(tmp_path / name, n_layers=1, seed=seed)
        for seed, name in enumerate(("base", "one", "two"))
    }
    for name in ("base", "one"):
        add_tokens(folders[name], ["<more>"], seed=len(name))
    plan = Plan("base", base="base", missing=missing)  # type: ignore[arg-type]
    found = Family(plan, **folders).merged(two=1.0)[EMBED][288]
    base, one = (stored(folders[name])[EMBED][288] for name in ("base", "one"))
    rows = {"base": base, "mean": (base + one) / 2, "zero": torch.zeros(32)}
    assert torch.allclose(found, rows[expected], atol=1e-7)


def test_rows_of_no_token_are_the_donors_for_every_model(tmp_path: Path) -> None:
    one = tiny_model(tmp_path / "one", n_layers=1)
    two = tiny_model(tmp_path / "two", n_layers=1, seed=1)
    add_rows(one, 12, seed=1)
    add_rows(two, 4, seed=2)
    rows = {"one": stored(one), "two": stored(two)}
    for donor, other, n in (("one", "two", 300), ("two", "one", 292)):
        family = Family(Plan(donor), one=one, two=two)
        found = family.merged(**{other: 1.0})
        for name in (EMBED, HEAD):
            assert found[name].shape == (n, 32)
            assert torch.equal(found[name][:288], rows[other][name][:288])
            assert torch.equal(found[name][288:], rows[donor][name][288:])


def test_padding_to_a_multiple_adds_the_mean_row(tmp_path: Path) -> None:
    one = tiny_model(tmp_path / "one", n_layers=1)
    two = tiny_model(tmp_path / "two", n_layers=1, seed=1)
    permute(two)
    family = Family(Plan("one", multiple=100), one=one, two=two)
    found = family.merged(two=1.0)[EMBED]
    assert len(found) == 300
    expected = stored(one)[EMBED].mean(dim=0)
    assert torch.allclose(found[288:], expected.expand(12, -1), atol=1e-6)
    config = merged_config(family.recipe(two=1.0), family.sources)
    assert config["vocab_size"] == 300


def test_special_tokens_are_the_donors_or_move_along(tmp_path: Path) -> None:
    one = tiny_model(tmp_path / "one", n_layers=1)
    two = tiny_model(tmp_path / "two", n_layers=1, seed=1)
    order = permute(two)
    family = Family(Plan("one"), one=one, two=two)
    config = merged_config(family.recipe(two=1.0), family.sources)
    assert [config[f"{t}_token_id"] for t in ("pad", "bos", "eos")] == [0, 1, 2]
    alignment = align(family.models, family.plan)
    was = {"eos_token_id": [5, 7], "pad_token_id": 3, "bos_token_id": None}
    now = alignment.special_tokens("two", was, {})
    assert now["eos_token_id"] == [int(order[5]), int(order[7])]
    assert now["pad_token_id"] == int(order[3])
    assert now["bos_token_id"] is None


def test_element_types_stay_each_models_own(tmp_path: Path) -> None:
    one = tiny_model(tmp_path / "one", n_layers=1, dtype="bfloat16")
    two = tiny_model(tmp_path / "two", n_layers=1, seed=1, tied=True)
    permute(two)
    family = Family(Plan("one"), one=one, two=two)
    found = family.merged(one=0.5, two=0.5)
    mixed = (
        stored(one)[EMBED].float()
        + stored(tiny_model(tmp_path / "again", n_layers=1, seed=1, tied=True))[EMBED]
    ) / 2
    assert torch.allclose(found[EMBED], mixed, atol=1e-6)
    assert HEAD in found


def test_logits_on_own_tokens_are_unchanged_by_a_union(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folders = three(tmp_path)
    family = Family(Plan("base", union=True, base="base"), **folders)
    out = write_model(family.recipe(two=1.0), family.sources, tmp_path / "out").path
    text = "the cat<two> sat<shared> on the mat"
    logits = {}
    for folder in (folders["two"], out):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        assert tokenizer.decode(ids[0]) == text
        with torch.inference_mode():
            logits[folder] = AutoModelForCausalLM.from_pretrained(folder)(ids).logits[0]
    alignment = align(family.models, family.plan)
    rows = torch.tensor(alignment.maps["two"])
    has = rows >= 0
    expected = logits[folders["two"]][:, rows[has]]
    assert torch.allclose(logits[out][:, has], expected, atol=1e-5)


def test_the_written_tokenizer_is_the_donors(tmp_path: Path) -> None:
    one = tiny_model(tmp_path / "one", n_layers=1)
    two = tiny_model(tmp_path / "two", n_layers=1, seed=1)
    permute(two)
    (two / "chat_template.jinja").write_text("two's own")
    family = Family(Plan("one"), one=one, two=two)
    out = write_model(family.recipe(two=1.0), family.sources, tmp_path / "out").path
    assert read_tokenizer(out) == read_tokenizer(one)
    assert not (out / "chat_template.jinja").exists()
    assert (out / "generation_config.json").is_file()
    model = read_model(out)
    assert model.tokenizer_digest == family.models["one"].tokenizer_digest
    assert model.vocab_size == 288


def test_a_vocabulary_that_comes_out_otherwise_is_refused(tmp_path: Path) -> None:
    one = tiny_model(tmp_path / "one", n_layers=1)
    two = tiny_model(tmp_path / "two", n_layers=1, seed=1)
    permute(two)
    family = Family(Plan("one"), one=one, two=two)
    good = family.input("two")
    assert isinstance(good, Transformed)
    recipe = family.recipe(two=1.0)
    for source, said in (
        (replace(good, statistics="0" * 32), "comes out as"),
        (replace(good, transform="magic"), "transformed by 'magic'"),
        (replace(good, of=Checkpoint("0" * 32)), "has no part in"),
        (replace(good, settings=Plan("three").settings()), "none of the models"),
    ):
        with pytest.raises(RecipeError, match=said):
            merged_config(replace(recipe, inputs=(("two", source),)), family.sources)


def test_a_row_that_no_model_has_is_padding(tmp_path: Path) -> None:
    one = tiny_model(tmp_path / "one", n_layers=1)
    two = tiny_model(tmp_path / "two", n_layers=1, seed=1)
    add_tokens(one, ["<more>"])
    edit_rows(one, lambda rows: rows[:288])  # a token was added, the rows were not
    permute(two)
    plan = Plan("one", union=True)
    family = Family(plan, one=one, two=two)
    assert align(family.models, plan).rows == 288
    add_tokens(two, ["<other>"])
    family = Family(plan, one=one, two=two)
    found = family.merged(two=1.0)[EMBED]
    assert len(found) == 290
    mean = stored(one)[EMBED].mean(dim=0)
    assert torch.allclose(found[288], mean, atol=1e-6)
    assert torch.equal(found[289], stored(two)[EMBED][288])
