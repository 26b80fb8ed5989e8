"""A tokenizer in the one notation that stands for what it does to text.

Files that say the same in other words get equal forms: what is left out has the default
of the ``tokenizers`` library, a sequence is its steps, merges are pairs, and steps that
change nothing are gone. Left aside is what decides no id: version, truncation, padding,
offsets, token types, the decoder, and whether an added token is special (which decides
what is skipped when ids become text).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

Step = Mapping[str, Any]

_DEFAULTS: Mapping[str, Step] = {
    "BertNormalizer": {
        "clean_text": True,
        "handle_chinese_chars": True,
        "lowercase": True,
    },
    "Strip": {"strip_left": True, "strip_right": True},
    "ByteLevel": {"add_prefix_space": True, "use_regex": True},
    "Split": {"invert": False},
    "Punctuation": {"behavior": "Isolated"},
    "Digits": {"individual_digits": False},
    "FixedLength": {"length": 5},
    "Metaspace": {"replacement": "\u2581", "split": True},
    "WordPiece": {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100},
}
_NO_ID = ("trim_offsets", "str_rep")
_FLAGS = ("single_word", "lstrip", "rstrip")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_ALONE = {"single": ["A"], "pair": ["A", "B"]}


@lru_cache
def byte_alphabet() -> Mapping[str, int]:
    """Return the letters that byte-level tokenizers write bytes with (GPT-2)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {chr(byte): byte for byte in shown}
    return letters | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def model_kind(model: Step) -> str:
    """Return the type of a tokenizer's model, told from its keys where not said."""
    if said := model.get("type"):
        return str(said)
    if isinstance(model["vocab"], list):
        return "Unigram"
    if "max_input_chars_per_word" in model:
        return "WordPiece"
    return "WordLevel" if "unk_token" in model and "merges" not in model else "BPE"


def canonical(data: Step) -> dict[str, Any]:
    """Return what decides ids besides the number of each token, by part.

    Args:
        data: A ``tokenizer.json``.

    Returns:
        What messages call each part, to its canonical form: plain data.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: It is malformed.
    """
    normalizer = _steps(data.get("normalizer"), "normalizers", _normalizer)
    return {
        "normalizer": normalizer,
        "pre-tokenizer": _steps(
            data.get("pre_tokenizer"), "pretokenizers", _pre_tokenizer
        ),
        "model": _model(data["model"]),
        "added tokens": _added(data, is_plain=not normalizer),
        "post-processor": _steps(
            data.get("post_processor"), "processors", _post_processor
        ),
    }


def _steps(
    part: Step | None, inner: str, rewrite: Callable[[Step], Step | None]
) -> list[Step]:
    """Return steps in order; a sequence is its members, at any depth."""
    if part is None:
        return []
    if part["type"] == "Sequence":
        return [step for one in part[inner] for step in _steps(one, inner, rewrite)]
    step = rewrite(part)
    return [] if step is None else [step]


def _filled(step: Step) -> dict[str, Any]:
    kept = {key: value for key, value in step.items() if key not in _NO_ID}
    return {**_DEFAULTS.get(str(step["type"]), {}), **kept}


def _normalizer(step: Step) -> Step | None:
    out = _filled(step)
    if out["type"] == "BertNormalizer" and out.get("strip_accents") is None:
        out["strip_accents"] = out["lowercase"]
    if out["type"] == "Strip" and not (out["strip_left"] or out["strip_right"]):
        return None
    return out if out["type"] != "ByteLevel" else {"type": "ByteLevel"}


def _pre_tokenizer(step: Step) -> Step:
    out = _filled(step)
    if out["type"] == "Metaspace":
        was = out.pop("add_prefix_space", True)
        out.setdefault("prepend_scheme", "always" if was else "never")
    return out


def _post_processor(step: Step) -> Step | None:
    kind = step["type"]
    if kind == "ByteLevel":
        return None
    if kind in ("BertProcessing", "RobertaProcessing"):
        start, end = [step["cls"][1]], [step["sep"][1]]
        between = [end] if kind == "BertProcessing" else [end, end]
        single = [start, "A", end]
        return {"single": single, "pair": [start, "A", *between, "B", end]}
    if kind != "TemplateProcessing":
        return step
    known = step.get("special_tokens") or {}
    out = {key: _template(step[key], known) for key in ("single", "pair")}
    return None if out == _ALONE else out


def _template(pieces: Sequence[Step], known: Step) -> list[Any]:
    return [
        piece["Sequence"]["id"]
        if "Sequence" in piece
        else list(known[piece["SpecialToken"]["id"]]["ids"])
        for piece in pieces
    ]


def _model(model: Step) -> dict[str, Any]:
    kind = model_kind(model)
    out = _filled({**model, "type": kind})
    if kind == "Unigram":
        # The library reads numbers with an error in the last digit, and saves it.
        out["vocab"] = [[piece[0], f"{piece[1]:.10g}"] for piece in model["vocab"]]
        tokens = {piece[0] for piece in model["vocab"]}
        out.setdefault("unk_id", None)
    else:
        tokens = model["vocab"].keys()
    if kind in ("Unigram", "BPE"):
        # Without tokens for bytes there is nothing to fall back to.
        n_bytes = sum(1 for token in tokens if _BYTE.fullmatch(token))
        out["byte_fallback"] = bool(out.get("byte_fallback")) and n_bytes > 0
    if kind == "BPE":
        out |= _bpe(out, knows_all=out["byte_fallback"] and n_bytes == 256)
    return out


def _bpe(model: Step, *, knows_all: bool) -> Step:
    unknown = None if knows_all else model.get("unk_token")
    return {
        "merges": [list(pair) for pair in pairs(model.get("merges") or ())],
        "dropout": model.get("dropout") or None,
        "unk_token": unknown,
        "fuse_unk": bool(model.get("fuse_unk")) and unknown is not None,
        "ignore_merges": bool(model.get("ignore_merges")),
        "continuing_subword_prefix": model.get("continuing_subword_prefix") or "",
        "end_of_word_suffix": model.get("end_of_word_suffix") or "",
    }


def pairs(merges: Sequence[Any]) -> list[tuple[str, str]]:
    """Read merges in either of their two forms."""
    found = [m.split(" ", 1) if isinstance(m, str) else m for m in merges]
    return [(first, second) for first, second in found]


def _added(data: Step, *, is_plain: bool) -> list[dict[str, Any]]:
    """Return added tokens by number; those the model lacks get theirs in turn.

    Normalized ones are looked for after the others. Where text is not normalized, that
    matters only for tokens that may overlap.
    """
    vocab = data["model"]["vocab"]
    known = {p[0] for p in vocab} if isinstance(vocab, list) else vocab.keys()
    entries = data.get("added_tokens") or ()
    own = sorted(
        (entry for entry in entries if entry["content"] in known),
        key=lambda entry: (entry["id"], entry["content"]),
    )
    further = [entry for entry in entries if entry["content"] not in known]
    out = [
        {
            "content": entry["content"],
            "normalized": bool(entry.get("normalized", not entry.get("special"))),
            **{flag: bool(entry.get(flag)) for flag in _FLAGS},
        }
        for entry in (*own, *further)
    ]
    if is_plain and _never_overlap(out):
        out = [{**entry, "normalized": False} for entry in out]
    return out


def _never_overlap(added: Sequence[Step]) -> bool:
    """Tell whether tokens begin with letters that no token has further on."""
    texts = sorted(entry["content"] for entry in added)
    first = {text[:1] for text in texts}
    return not any(entry[flag] for entry in added for flag in _FLAGS) and (
        all(text and first.isdisjoint(text[1:]) for text in texts)
        and not any(text.startswith(one) for one, text in pairwise(texts))
    )
