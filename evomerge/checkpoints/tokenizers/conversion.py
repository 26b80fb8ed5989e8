"""Tokenizers of folders without ``tokenizer.json``: older files, converted.

Byte-level BPE (``vocab.json`` and ``merges.txt``), WordPiece (``vocab.txt``) and
SentencePiece (``tokenizer.model``) come out as transformers converts them. Numbers of
tokens are those of the files; how text is cut is said by the tokenizer's class alone
and is that of the class.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from evomerge.checkpoints.documents import read_bytes, read_json
from evomerge.checkpoints.tokenizers.canonical_form import byte_alphabet
from evomerge.checkpoints.tokenizers.sentence_piece import (
    APART,
    UNKNOWN,
    USER,
    read_pieces,
)
from evomerge.errors import CheckpointError

OLD_FILES = ("vocab.json", "merges.txt", "tokenizer.model", "added_tokens.json")
"""Older forms of what ``tokenizer.json`` says."""

HOW_TO_CONVERT = (
    "Make one with transformers: "
    "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
)
SETTINGS = "tokenizer_config.json"

_NAMED = (
    *(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")),
    "additional_special_tokens",
    "extra_special_tokens",
)
_USUAL = ("<|endoftext|>", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")
"""Special tokens that classes of tokenizers have without saying so."""

_LONGEST = 256
"""Letters of a piece that is made of others; only damaged files have longer ones."""

_SPACE = "\u2581"
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)


def converted(folder: Path) -> dict[str, Any]:
    """Return what ``tokenizer.json`` would hold.

    Raises:
        CheckpointError: There are no older files, or none that can be converted here.
    """
    for names, convert in (
        (("vocab.json", "merges.txt"), _byte_level),
        (("vocab.txt",), _word_piece),
        (("tokenizer.model",), _sentence_piece),
    ):
        if all((folder / name).is_file() for name in names):
            try:
                return convert(folder)
            except _UNREADABLE as error:
                raise CheckpointError(
                    f"{folder}: has no tokenizer.json, by which vocabularies are "
                    f"compared, and its {' and '.join(names)} cannot be converted here "
                    f"({error}). {HOW_TO_CONVERT}"
                ) from error
    raise CheckpointError(
        f"{folder}: has no tokenizer.json, by which vocabularies are compared. "
        f"{HOW_TO_CONVERT}"
    )


def needs_converting(folder: Path) -> bool:
    """Tell whether transformers cannot read a folder's older files.

    Classes of their own read theirs; the general one reads SentencePiece alone.
    """
    said = _settings(folder).get("tokenizer_class")
    return said in (None, "PreTrainedTokenizerFast", "TokenizersBackend") and any(
        (folder / name).is_file() for name in ("merges.txt", "vocab.txt")
    )


def named_tokens(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the tokens that the files beside ``tokenizer.json`` number, as entries."""
    entries: dict[str, dict[str, Any]] = {}
    numbered = _settings(folder).get("added_tokens_decoder")
    for number, entry in numbered.items() if isinstance(numbered, dict) else ():
        if isinstance(entry, dict) and number.isdecimal():
            entries[str(entry.get("content"))] = {**entry, "id": int(number)}
    for content, number in _optional(folder / "added_tokens.json").items():
        if type(number) is int:
            entries.setdefault(content, {"content": content, "id": number})
    return entries


def _byte_level(folder: Path) -> dict[str, Any]:
    vocab = read_json(folder / "vocab.json")
    if not byte_alphabet().keys() <= vocab.keys():
        raise ValueError("its tokens are not written byte by byte")
    lines = read_bytes(folder / "merges.txt").decode().splitlines()
    merges = [line.split(" ") for line in lines if line and line[:9] != "#version:"]
    settings = _settings(folder)
    said = str(settings.get("tokenizer_class"))
    family = str(_optional(folder / "config.json").get("model_type"))
    level = {
        "type": "ByteLevel",
        "add_prefix_space": bool(settings.get("add_prefix_space")),
        "trim_offsets": True,
        "use_regex": True,
    }
    normalizer, cutter = None, level
    if said.startswith("Qwen2") or family.startswith("qwen"):
        normalizer = {"type": "NFC"}
        split = {"pattern": {"Regex": _QWEN}, "behavior": "Isolated", "invert": False}
        steps = [{"type": "Split", **split}, {**level, "use_regex": False}]
        cutter = {"type": "Sequence", "pretokenizers": steps}
    return {
        "added_tokens": _added(folder, vocab),
        "normalizer": normalizer,
        "pre_tokenizer": cutter,
        "post_processor": None,
        "decoder": level,
        "model": _bpe(vocab, merges),
    }


def _bpe(vocab: Mapping[str, int], merges: list[list[str]]) -> dict[str, Any]:
    if any(len(pair) != 2 for pair in merges):
        raise ValueError("a merge is not of two tokens")
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "vocab": vocab,
        "merges": merges,
    }


def _word_piece(folder: Path) -> dict[str, Any]:
    lines = read_bytes(folder / "vocab.txt").decode().split("\n")
    vocab = {line.rstrip("\r"): i for i, line in enumerate(lines) if line.strip()}
    settings = _settings(folder)
    ends = {}
    for token in ("[CLS]", "[SEP]"):
        ends[token] = {"id": token, "ids": [vocab[token]], "tokens": [token]}
    cls, sep = ({"SpecialToken": {"id": token, "type_id": 0}} for token in ends)
    one, two = ({"Sequence": {"id": which, "type_id": 0}} for which in "AB")
    return {
        "added_tokens": _added(folder, vocab),
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
            "strip_accents": settings.get("strip_accents"),
            "lowercase": settings.get("do_lower_case", True),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [cls, one, sep],
            "pair": [cls, one, sep, two, sep],
            "special_tokens": ends,
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }


def _sentence_piece(folder: Path) -> dict[str, Any]:
    found = read_pieces(folder / "tokenizer.model")
    vocab = {text: i for i, text in enumerate(found.texts)}
    apart = {t: k for t, k in zip(found.texts, found.kinds, strict=True) if k in APART}
    added = _added(folder, vocab, [t for t, k in apart.items() if k != USER])
    known = {entry["content"] for entry in added}
    added += [_entry({"content": t, "id": vocab[t]}) for t in apart if t not in known]
    scheme = "first" if found.adds_space else "never"
    unknown = found.kinds.index(UNKNOWN)
    if found.is_bpe:
        model = _bpe(vocab, _merges(vocab))
        model |= {"unk_token": found.texts[unknown], "fuse_unk": True}
        normalizer = None
    else:
        listed = [list(pair) for pair in zip(found.texts, found.scores, strict=True)]
        model = {"type": "Unigram", "unk_id": unknown, "vocab": listed}
        normalizer = _normalised(found.charsmap)
    return {
        "added_tokens": sorted(added, key=lambda entry: entry["id"]),
        "normalizer": normalizer,
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": _SPACE,
            "prepend_scheme": scheme if found.is_bpe else "always",
            "split": not found.is_bpe,
        },
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": _spaces_again(scheme)},
        "model": {**model, "byte_fallback": found.falls_back},
    }


def _normalised(charsmap: bytes) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"type": "Strip", "strip_left": False, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": _SPACE},
    ]
    if charsmap:
        text = base64.b64encode(charsmap).decode()
        steps.insert(0, {"type": "Precompiled", "precompiled_charsmap": text})
    return {"type": "Sequence", "normalizers": steps}


def _spaces_again(scheme: str) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if scheme == "first":
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return steps


def _merges(vocab: Mapping[str, int]) -> list[list[str]]:
    """Return every way to make a piece of two others, in order of the pieces."""
    out = []
    for piece in vocab:
        cuts = range(1, len(piece) if len(piece) <= _LONGEST else 0)
        ways = [(piece[:cut], piece[cut:]) for cut in cuts]
        able = [w for w in ways if w[0] in vocab and w[1] in vocab]
        able.sort(key=lambda way: (len(way[0]), len(way[1])))
        out += [list(way) for way in able]
    return out


def _added(
    folder: Path, vocab: Mapping[str, int], special: list[str] | None = None
) -> list[dict[str, Any]]:
    """Return the added tokens: numbered ones, and special ones that are only named."""
    entries = named_tokens(folder)
    further = count(max([*vocab.values(), *(e["id"] for e in entries.values())]) + 1)
    named = dict(_named(_optional(folder / "special_tokens_map.json")))
    named |= dict(_named(_settings(folder)))
    there = vocab.keys() | entries.keys()
    own = special if special is not None else [t for t in _USUAL if t in there]
    for content in (*own, *named):
        entry = {**named.get(content, {}), **entries.get(content, {})}
        number = entry.get("id", vocab.get(content))
        entry["id"] = next(further) if number is None else number
        entries[content] = {**entry, "content": content, "special": True}
    return sorted(map(_entry, entries.values()), key=lambda entry: entry["id"])


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    special = bool(entry.get("special"))
    flags = {key: bool(entry.get(key)) for key in ("single_word", "lstrip", "rstrip")}
    return {
        "id": entry["id"],
        "content": entry["content"],
        **flags,
        "normalized": bool(entry.get("normalized", not special)),
        "special": special,
    }


def _named(settings: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for key in _NAMED:
        value = settings.get(key)
        several = value.values() if key[0] == "e" and isinstance(value, dict) else value
        for one in several if isinstance(several, list) else [several]:
            if isinstance(one, str):
                yield one, {}
            elif isinstance(one, dict) and isinstance(one.get("content"), str):
                yield one["content"], one


def _settings(folder: Path) -> dict[str, Any]:
    return _optional(folder / SETTINGS)


def _optional(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}
