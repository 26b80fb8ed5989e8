"""Tokens of models: read, compared, united, and refused where they mean nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.vocabularies import (
    add_tokens,
    permute,
    read_tokenizer,
    train_tokenizer,
    write_tokenizer_json,
)
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from evomerge.checkpoints import read_model
from evomerge.checkpoints.alignment import ABSENT, Plan, align
from evomerge.checkpoints.tokenizers.tokenizer import Vocabulary, read_vocabulary
from evomerge.checkpoints.tokenizers.union import unite
from evomerge.errors import CheckpointError
from evomerge.testing.models import tiny_model

CATS = ["the cat sat on the mat and the other cat sat on that hat", "cats and hats"] * 3
SUMS = ["twelve and twenty give thirty two", "seventy seven less eleven"] * 3
TEXTS = [
    "the cat sat",
    "twenty cats and twelve hats",
    " two  spaces\n\tand \u65e5\u672c\u8a9e \U0001f431",
    "<s>the<tool> cat",
]


def metaspace(folder: Path, *texts: str) -> Vocabulary:
    """Write a SentencePiece-like tokenizer with byte tokens."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=specials, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = data["added_tokens"][:3]
    data["pre_tokenizer"] = None
    return written(folder, data)


def written(folder: Path, data: Any) -> Vocabulary:
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer_json(folder, data)
    return read_vocabulary(folder)


def trained(folder: Path, texts: list[str], vocab: int = 276) -> Vocabulary:
    folder.mkdir(parents=True, exist_ok=True)
    train_tokenizer(folder, texts, vocab)
    return read_vocabulary(folder)


def test_tokens_are_those_the_library_knows(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "m", n_layers=1)
    found = read_vocabulary(folder)
    library = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert dict(found.ids) == library.get_vocab()
    assert found.size == 288
    assert found.spelling == "byte-level"


def test_tokens_of_one_text_are_found_across_spellings(tmp_path: Path) -> None:
    ours = trained(tmp_path / "ours", CATS)
    theirs = metaspace(tmp_path / "theirs", *CATS)
    assert theirs.spelling == "metaspace"
    assert ours.find("\u2581the", theirs) == ours.ids["\u0120the"]
    assert theirs.find("\u0120the", ours) == theirs.ids["\u2581the"]
    assert theirs.find("\u010a", ours) == theirs.ids["<0x0A>"]
    assert theirs.find("a", ours) == theirs.ids["a"]
    assert theirs.find("<s>", ours) == theirs.ids["<s>"]
    assert theirs.find("<pad>", ours) is None


def test_a_union_reaches_every_token_and_keeps_the_firsts_ids(tmp_path: Path) -> None:
    first, second = (
        trained(tmp_path / n, texts) for n, texts in (("a", CATS), ("b", SUMS))
    )
    made = unite([first, second])
    (tmp_path / "union.json").write_text(made.text())
    library = Tokenizer.from_file(str(tmp_path / "union.json"))
    known = library.get_vocab()
    assert known == {**first.ids, **made.new}
    assert sorted(known.values()) == list(range(len(known)))
    assert made.new.keys() == second.ids.keys() - first.ids.keys()
    own = Tokenizer.from_file(str(first.file))
    for text in (*SUMS, *CATS):
        assert library.decode(library.encode(text).ids) == text
        # Only joined further: every boundary is one of the first tokenizer's.
        ends = {end for _, end in library.encode(text).offsets}
        assert ends <= {end for _, end in own.encode(text).offsets}
    assert made.new.keys() & set(library.encode(SUMS[0]).tokens)


@settings(deadline=None, max_examples=60)
@given(text=st.text(max_size=40) | st.sampled_from(TEXTS))
def test_text_comes_back_from_a_union_as_it_went_in(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    library = _united(tmp_path_factory)
    ids = library.encode(text).ids
    assert library.decode(ids, skip_special_tokens=False) == text


_made: list[Tokenizer] = []


def _united(factory: pytest.TempPathFactory) -> Tokenizer:
    if not _made:
        folder = factory.mktemp("united")
        parts = []
        for name, texts in (("a", CATS), ("b", SUMS)):
            model = tiny_model(folder / name, n_layers=1)
            train_tokenizer(model, texts, 276)
            add_tokens(model, ["<tool>", f"<{name}>"])
            parts.append(read_vocabulary(model))
        _made.append(Tokenizer.from_str(unite(parts).text()))
    return _made[0]


@pytest.mark.parametrize(
    "kind", ["PreTrainedTokenizerFast", "Qwen2Tokenizer", "LlamaTokenizer"]
)
def test_transformers_loads_a_union(tmp_path: Path, kind: str) -> None:
    from transformers import AutoTokenizer

    if kind == "LlamaTokenizer":
        first = metaspace(tmp_path / "a", *CATS)
        second = metaspace(tmp_path / "b", *SUMS)
    else:
        first, second = (
            trained(tmp_path / n, texts) for n, texts in (("a", CATS), ("b", SUMS))
        )
    made = unite([first, second])
    folder = tmp_path / "union"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(made.text())
    settings_ = {
        "tokenizer_class": kind,
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {
            str(first.ids[token]): {"content": token, "special": True}
            for token in ("<unk>", "<s>", "</s>")
        },
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings_))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = tokenizer.get_vocab()
    assert {token: found[token] for token in made.new} == made.new
    assert {token: found[token] for token in first.ids} == first.ids
    for text in ("the cat sat", "twelve and twenty"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert max(ids) < len(found)


def test_scores_go_along_with_pieces_of_a_unigram_model(tmp_path: Path) -> None:
    def unigram(name: str, pieces: list[list[Any]], *added: str) -> Vocabulary:
        entries = [
            {"id": len(pieces) + i, "content": token, "special": True}
            for i, token in enumerate(added)
        ]
        model = {"type": "Unigram", "unk_id": 0, "vocab": pieces}
        return written(tmp_path / name, {"model": model, "added_tokens": entries})

    first = unigram("a", [["<unk>", 0.0], ["a", -1.0]], "<x>")
    second = unigram("b", [["<unk>", 0.0], ["a", -3.0], ["b", -2.0]], "<x>", "<y>")
    data = json.loads(unite([first, second]).text())
    assert data["model"]["vocab"] == [
        ["<unk>", 0.0],
        ["a", -1.0],
        ["<x>", 0.0],
        ["b", -2.0],
        ["<y>", 0.0],
    ]
    assert [entry["content"] for entry in data["added_tokens"]] == ["<x>", "<y>"]
    holes = {"model": first.data["model"], "added_tokens": [{"id": 5, "content": "z"}]}
    gappy = written(tmp_path / "c", holes)
    with pytest.raises(CheckpointError, match="ids without gaps"):
        unite([gappy, second]).text()


def test_a_union_of_tokenizers_of_two_kinds_is_refused(tmp_path: Path) -> None:
    ours = trained(tmp_path / "ours", CATS)
    theirs = metaspace(tmp_path / "theirs", *SUMS)
    with pytest.raises(CheckpointError, match="works in another way") as caught:
        unite([ours, theirs])
    assert "Take the vocabulary of one of the models" in str(caught.value)


def test_nothing_to_add_is_no_union(tmp_path: Path) -> None:
    ours = trained(tmp_path / "ours", CATS)
    assert not unite([ours, ours]).new


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"vocab": {"a": -1}}}, "has id -1"),
        ({"model": {"vocab": {"a": 1 << 40}}}, "has id 1099511627776"),
        ({"model": {"vocab": {"a": "0"}}}, "has id '0'"),
        ({"model": {"vocab": {}}, "added_tokens": []}, "has no tokens"),
        ({"model": None}, "is not a tokenizer"),
        ({"added_tokens": [{"content": "a"}]}, "is not a tokenizer"),
    ],
)
def test_a_malformed_tokenizer_is_told(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    folder = tiny_model(tmp_path / "m", n_layers=1)
    write_tokenizer_json(folder, {**read_tokenizer(folder), **change})
    with pytest.raises(CheckpointError, match=said):
        read_vocabulary(folder)


def test_models_without_a_tokenizer_to_align_by_are_told(tmp_path: Path) -> None:
    one = tiny_model(tmp_path / "one", n_layers=1)
    two = tiny_model(tmp_path / "two", n_layers=1)
    permute(two)
    (one / "tokenizer.json").unlink()
    (one / "vocab.json").write_text("{}")
    models = {"one": read_model(one), "two": read_model(two)}
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json, by which"):
        align(models, Plan("two"))


def test_models_of_one_tokenizer_are_unchanged(tmp_path: Path) -> None:
    folders = {
        name: tiny_model(tmp_path / name, n_layers=1, seed=seed)
        for seed, name in enumerate(("one", "two"))
    }
    models = {name: read_model(folder) for name, folder in folders.items()}
    for plan in (Plan("one"), Plan("one", union=True)):
        alignment = align(models, plan)
        assert alignment.unchanged == {"one", "two"}
        assert alignment.rows == 288
    assert align(models, Plan("one", multiple=64)).rows == 320


def test_without_tokenizer_files_rows_stand_for_themselves(tmp_path: Path) -> None:
    folders = [
        tiny_model(tmp_path / str(n), n_layers=1, vocab=n) for n in (288, 300, 320)
    ]
    for folder in folders:
        (folder / "tokenizer.json").unlink()
    models = {folder.name: read_model(folder) for folder in folders}
    alignment = align(models, Plan("300"))
    assert alignment.rows == 300
    assert alignment.maps["288"][287:290] == (287, ABSENT, ABSENT)
    assert sum(alignment.is_token) == 288


def test_plans_come_back_from_their_settings() -> None:
    for plan in (Plan("a"), Plan("a", True, "zero", "b", 64), Plan("a", apart=True)):
        assert Plan.of(dict(plan.settings())) == plan
    good = dict(Plan("a").settings())
    for change in (
        {"missing": "x"},
        {"multiple": -1},
        {"union": "yes"},
        {"donor": 1},
        {"apart": 1},
    ):
        with pytest.raises(CheckpointError, match="is planned by"):
            Plan.of({**good, **change})
    with pytest.raises(CheckpointError, match="planned without 'donor'"):
        Plan.of({name: value for name, value in good.items() if name != "donor"})
