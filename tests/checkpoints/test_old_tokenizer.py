"""Tokenizers that transformers saved again, and older files, against transformers."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.tokenizers import TEXTS, tokenizer_json
from tokenizers import Tokenizer

from evomerge.checkpoints.tokenizers.conversion import converted
from evomerge.checkpoints.tokenizers.tokenizer import (
    TokenizerFacts,
    read_tokenizer,
    read_vocabulary,
)
from evomerge.errors import CheckpointError

SETTINGS: dict[str, dict[str, Any]] = {
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "qwen2": {
        "eos_token": "<|im_end|>",
        "additional_special_tokens": ["<|im_start|>"],
    },
    "gpt2": {},
    "llama2": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "unigram": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "wordpiece": {},
}


def folder_of(folder: Path, kind: str, cls: str, family: str) -> Path:
    """Write what stands beside a tokenizer of a kind."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": family}))
    said = {"tokenizer_class": cls, **SETTINGS[kind]}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder


def facts(folder: Path) -> TokenizerFacts:
    found = read_tokenizer(folder)
    assert found is not None
    assert found.problem == ""
    return found


def merges_text(data: dict[str, Any]) -> str:
    pairs = [" ".join(pair) for pair in data["model"]["merges"]]
    return "\n".join(["#version: 0.2", *pairs, ""])


def loaded(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("kind", "cls", "family"),
    [
        ("llama3", "PreTrainedTokenizerFast", "llama"),
        ("qwen2", "Qwen2Tokenizer", "qwen2"),
        ("gpt2", "GPT2Tokenizer", "gpt2"),
        ("gpt2", "PreTrainedTokenizerFast", "llama"),
        ("llama2", "LlamaTokenizer", "llama"),
        ("unigram", "PreTrainedTokenizerFast", "llama"),
        ("wordpiece", "BertTokenizer", "bert"),
    ],
)
def test_a_tokenizer_that_transformers_saved_again_is_equal(
    tmp_path: Path, kind: str, cls: str, family: str
) -> None:
    folder = folder_of(tmp_path / "was", kind, cls, family)
    data = tokenizer_json(kind)
    (folder / "tokenizer.json").write_text(json.dumps(data))
    loaded(folder).save_pretrained(tmp_path / "now")
    assert facts(folder) == facts(tmp_path / "now")
    now = Tokenizer.from_file(str(tmp_path / "now" / "tokenizer.json"))
    for text in TEXTS:
        was = Tokenizer.from_str(json.dumps(data))
        assert was.encode(text).ids == now.encode(text).ids


def old(folder: Path, kind: str) -> Path:
    """Write a tokenizer as older versions of transformers did."""
    cls, family = {
        "qwen2": ("Qwen2Tokenizer", "qwen2"),
        "gpt2": ("GPT2Tokenizer", "gpt2"),
        "wordpiece": ("BertTokenizer", "bert"),
        "llama2": ("LlamaTokenizer", "llama"),
    }[kind]
    folder_of(folder, kind, cls, family)
    data = tokenizer_json(kind)
    vocab = data["model"]["vocab"]
    if kind == "llama2":
        (folder / "tokenizer.model").write_bytes(sentence_piece("bpe"))
    elif kind == "wordpiece":
        lines = [f"{token}\n" for token in sorted(vocab, key=vocab.__getitem__)]
        (folder / "vocab.txt").write_text("".join(lines))
    else:
        (folder / "vocab.json").write_text(json.dumps(vocab))
        (folder / "merges.txt").write_text(merges_text(data))
        ids = {entry["content"]: entry["id"] for entry in data["added_tokens"]}
        (folder / "added_tokens.json").write_text(json.dumps(ids))
    return folder


def sentence_piece(kind: str) -> bytes:
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    out = io.BytesIO()
    trainer.train(
        sentence_iterator=iter(TEXTS * 10),
        model_writer=out,
        vocab_size=330,
        model_type=kind,
        byte_fallback=True,
        hard_vocab_limit=False,
        user_defined_symbols=["<tool>"],
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return out.getvalue()


OLD = ("qwen2", "gpt2", "wordpiece", "llama2")
_made: dict[str, tuple[Tokenizer, Any]] = {}


def _both(kind: str, factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    if kind not in _made:
        folder = old(factory.mktemp("old") / kind, kind)
        own = Tokenizer.from_str(json.dumps(converted(folder)))
        _made[kind] = own, loaded(folder)
    return _made[kind]


@pytest.mark.parametrize("kind", OLD)
def test_old_files_are_converted_as_by_transformers(kind: str, tmp_path: Path) -> None:
    folder = old(tmp_path / "was", kind)
    loaded(folder).save_pretrained(tmp_path / "now")
    assert facts(folder) == facts(tmp_path / "now")
    assert read_vocabulary(folder).ids == loaded(tmp_path / "now").get_vocab()


@settings(
    deadline=None,
    max_examples=80,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    kind=st.sampled_from(OLD),
    text=st.text(max_size=30)
    | st.text("the cat's 12 \n Caf\u00e9\u65e5\U0001f431<s>|tool")
    | st.sampled_from(TEXTS),
)
def test_old_files_encode_as_in_transformers(
    kind: str, text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    own, theirs = _both(kind, tmp_path_factory)
    assert own.encode(text).ids == theirs(text)["input_ids"]


def test_old_files_of_byte_level_tokenizers_equal_the_new_file(tmp_path: Path) -> None:
    folder = old(tmp_path / "old", "gpt2")
    new = folder_of(tmp_path / "new", "gpt2", "GPT2Tokenizer", "gpt2")
    (new / "tokenizer.json").write_text(json.dumps(tokenizer_json("gpt2")))
    assert facts(folder) == facts(new)


def test_pieces_chosen_by_score_keep_their_ids(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", "unigram", "PreTrainedTokenizerFast", "llama")
    model = sentence_piece("unigram")
    (folder / "tokenizer.model").write_bytes(model)
    library = pytest.importorskip("sentencepiece").SentencePieceProcessor(
        model_proto=model
    )
    found = read_vocabulary(folder)
    pieces = [library.id_to_piece(i) for i in range(library.get_piece_size())]
    assert [found.tokens[i] for i in range(len(pieces))] == pieces
    made = Tokenizer.from_str(json.dumps(dict(found.data)))
    for text in ("the cat sat on that hat", "user: what is the answer?"):
        assert made.encode(text).ids == library.encode(text)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"vocab.json": "{}", "merges.txt": ""}, "are not written byte by byte"),
        ({"vocab.json": "[]", "merges.txt": ""}, "expected a JSON object"),
        ({"tokenizer.model": "IQ== 0\nIg== 1\n"}, "no SentencePiece model"),
        ({"tokenizer.model": ""}, "no SentencePiece model"),
        ({"vocab.txt": "a\nb\n"}, r"cannot be converted here"),
        ({"vocab.json": "{}"}, r"by which vocabularies are compared"),
        ({"tekken.json": "{}"}, r"by which vocabularies are compared"),
    ],
)
def test_old_files_that_cannot_be_converted_are_told(
    tmp_path: Path, files: dict[str, str], said: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    found = read_tokenizer(tmp_path)
    assert found is not None
    assert found.rows == ""
    with pytest.raises(CheckpointError, match=said) as caught:
        read_vocabulary(tmp_path)
    assert found.problem == str(caught.value)
    if "JSON object" not in said:
        assert "tokenizer.json" in str(caught.value)
        assert "from_pretrained(folder).save_pretrained(folder)" in str(caught.value)


@given(data=st.binary(max_size=200))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_of_a_strangers_model_end_in_a_traceback(
    data: bytes, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(data)
    found = read_tokenizer(tmp_path)
    assert found is not None
    assert found.rows or "tokenizer.json" in found.problem
