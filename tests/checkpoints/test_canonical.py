"""Tokenizers that are written otherwise and give the same ids are called equal.

And never others: texts are encoded by the ``tokenizers`` library itself.
"""

import copy
import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tokenizers import KINDS, TEXTS, tokenizer_json
from tokenizers import Tokenizer

from evomerge.checkpoints.tokenizers.canonical_form import canonical, pairs

Data = dict[str, Any]
Edit = Callable[[Data], None]
STEPS = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
}


def _each(data: Data, change: Callable[[Data], None]) -> None:
    """Change every step of a tokenizer, and its model."""

    def walk(part: Any, inner: str) -> None:
        if part:
            change(part)
            for one in part.get(inner, ()):
                walk(one, inner)

    for key, inner in STEPS.items():
        walk(data[key], inner)
    change(data["model"])


def _wrap(key: str) -> Edit:
    """Make a part the only member of a sequence, or an empty one of none."""

    def edit(data: Data) -> None:
        members = [] if data[key] is None else [data[key]]
        data[key] = {"type": "Sequence", STEPS[key]: members}

    return edit


def _leave_out(data: Data) -> None:
    """Leave out what the library fills in."""

    def change(part: Data) -> None:
        if part["type"] == "ByteLevel" and part.get("use_regex"):
            del part["use_regex"]
        if part["type"] == "Metaspace" and part.get("split"):
            del part["split"]
        if part["type"] == "BPE":
            for key in ("dropout", "fuse_unk", "byte_fallback", "ignore_merges"):
                if not part.get(key):
                    part.pop(key, None)

    _each(data, change)


def _offsets(data: Data) -> None:
    def change(part: Data) -> None:
        if "trim_offsets" in part:
            part["trim_offsets"] = not part["trim_offsets"]

    _each(data, change)


def _merges(data: Data) -> None:
    if "merges" in data["model"]:
        data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]


def _affixes(data: Data) -> None:
    if data["model"]["type"] == "BPE":
        data["model"] |= {"continuing_subword_prefix": "", "end_of_word_suffix": ""}


def _idle(data: Data) -> None:
    """Steps that change nothing."""
    if data["normalizer"] is None:
        data["normalizer"] = {
            "type": "Strip",
            "strip_left": False,
            "strip_right": False,
        }
    if data["post_processor"] is None:
        one, two = ({"Sequence": {"id": w, "type_id": n}} for n, w in enumerate("AB"))
        data["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [one],
            "pair": [one, two],
            "special_tokens": {},
        }
    if data["post_processor"]["type"] == "BertProcessing":
        cls, sep = ({"SpecialToken": {"id": t, "type_id": 0}} for t in ("c", "s"))
        one, two = ({"Sequence": {"id": w, "type_id": n}} for n, w in enumerate("AB"))
        ids = {"c": data["post_processor"]["cls"], "s": data["post_processor"]["sep"]}
        data["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [cls, one, sep],
            "pair": [cls, one, sep, two, sep],
            "special_tokens": {
                key: {"id": key, "ids": [number], "tokens": [token]}
                for key, (token, number) in ids.items()
            },
        }


def _aside(data: Data) -> None:
    """What decides no id."""
    data["version"] = "1.0"
    data["decoder"] = None
    data["padding"] = {
        "strategy": "BatchLongest",
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "x",
    }
    for entry in data["added_tokens"]:
        entry["special"] = not entry["special"]
    if isinstance(data["model"]["vocab"], dict):
        data["model"]["vocab"] = dict(reversed(data["model"]["vocab"].items()))


def _accents(data: Data) -> None:
    _each(
        data,
        lambda part: (
            part.update(strip_accents=part["lowercase"])
            if "strip_accents" in part
            else None
        ),
    )


NEUTRAL: dict[str, Edit] = {
    "wrapped normalizer": _wrap("normalizer"),
    "wrapped pre-tokenizer": _wrap("pre_tokenizer"),
    "wrapped post-processor": _wrap("post_processor"),
    "defaults left out": _leave_out,
    "offsets": _offsets,
    "merges as text": _merges,
    "empty affixes": _affixes,
    "idle steps": _idle,
    "aside": _aside,
    "accents": _accents,
}


def _toggle(*keys: str) -> Edit:
    def edit(data: Data) -> None:
        def change(part: Data) -> None:
            for key in keys:
                if isinstance(part.get(key), bool):
                    part[key] = not part[key]

        _each(data, change)

    return edit


def _flag(key: str) -> Edit:
    def edit(data: Data) -> None:
        for entry in data["added_tokens"][:2]:
            entry[key] = not entry[key]

    return edit


def _set(key: str, value: Any) -> Edit:
    return lambda data: data.update({key: value})


def _last_merge(data: Data) -> None:
    if data["model"].get("merges"):
        data["model"]["merges"].pop()


def _swap_merges(data: Data) -> None:
    if merges := data["model"].get("merges"):
        merges.reverse()


def _add(*tokens: str) -> Edit:
    def edit(data: Data) -> None:
        vocab = data["model"]["vocab"]
        known = {entry["content"] for entry in data["added_tokens"]}
        first = max([len(vocab), *(e["id"] + 1 for e in data["added_tokens"])])
        flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
        data["added_tokens"] += [
            {"id": first + i, "content": token, **dict.fromkeys(flags, False)}
            for i, token in enumerate(tokens)
            if token not in known
        ]

    return edit


def _scheme(scheme: str) -> Edit:
    def edit(data: Data) -> None:
        _each(
            data,
            lambda part: (
                part.update(prepend_scheme=scheme) if "prepend_scheme" in part else None
            ),
        )

    return edit


OTHER: dict[str, Edit] = {
    "add_prefix_space": _toggle("add_prefix_space"),
    "use_regex": _toggle("use_regex"),
    "split": _toggle("split"),
    "invert": _toggle("invert"),
    "lowercase": _toggle("lowercase"),
    "strip_accents": _toggle("strip_accents"),
    "fuse_unk": _toggle("fuse_unk"),
    "byte_fallback": _toggle("byte_fallback"),
    "ignore_merges": _toggle("ignore_merges"),
    "clean_text": _toggle("clean_text", "handle_chinese_chars"),
    "lstrip": _flag("lstrip"),
    "rstrip": _flag("rstrip"),
    "single_word": _flag("single_word"),
    "normalized": _flag("normalized"),
    "no normalizer": _set("normalizer", None),
    "lowered": _set("normalizer", {"type": "Lowercase"}),
    "nfc": _set("normalizer", {"type": "NFC"}),
    "no pre-tokenizer": _set("pre_tokenizer", None),
    "words": _set("pre_tokenizer", {"type": "WhitespaceSplit"}),
    "no post-processor": _set("post_processor", None),
    "a merge less": _last_merge,
    "merges turned": _swap_merges,
    "overlapping tokens": _add("cat", "cats", "at s"),
    "spaced tokens": _add("<a>", "<a><b>"),
    "prefix first": _scheme("first"),
    "prefix never": _scheme("never"),
}
EDITS = NEUTRAL | OTHER


@cache
def _plain(kind: str) -> str:
    return json.dumps(tokenizer_json(kind))


@cache
def _edited(kind: str, edits: tuple[str, ...]) -> tuple[str, Tokenizer] | None:
    """Return the name of a tokenizer's form and the tokenizer, if it can be one."""
    data = json.loads(_plain(kind))
    for name in edits:
        EDITS[name](data)
    try:
        tokenizer = Tokenizer.from_str(json.dumps(data))
    except Exception:  # noqa: BLE001 - the library raises no narrower one
        return None  # for example a token that no merge leads to any more
    tokenizer.no_padding()
    ids = tokenizer.get_vocab(with_added_tokens=True)
    return json.dumps([canonical(data), ids], sort_keys=True), tokenizer


@pytest.mark.parametrize("name", NEUTRAL)
@pytest.mark.parametrize("kind", KINDS)
def test_other_words_for_the_same_are_equal(kind: str, name: str) -> None:
    plain, edited = _edited(kind, ()), _edited(kind, (name,))
    assert plain is not None
    assert edited is not None
    assert edited[0] == plain[0]


def test_all_other_words_at_once_are_equal() -> None:
    for kind in KINDS:
        plain, edited = _edited(kind, ()), _edited(kind, tuple(NEUTRAL))
        assert plain is not None
        assert edited is not None
        assert edited[0] == plain[0], kind


LETTERS = "the cat's 12 \n\t  Cafe\u0301\u00e9\u65e5\U0001f431<>|_abs\u2581"


@settings(deadline=None, max_examples=250)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    shared=st.lists(st.sampled_from(sorted(EDITS)), max_size=3, unique=True),
    one=st.lists(st.sampled_from(sorted(NEUTRAL)), max_size=2, unique=True),
    other=st.lists(st.sampled_from(sorted(EDITS)), max_size=2, unique=True),
    drawn=st.text(max_size=20) | st.text(LETTERS, max_size=40),
)
def test_what_is_called_equal_encodes_equally(
    kind: str, shared: list[str], one: list[str], other: list[str], drawn: str
) -> None:
    first, second = (_edited(kind, (*shared, *own)) for own in (one, other))
    if first is None or second is None or first[0] != second[0]:
        return
    specials = [token.content for token in first[1].get_added_tokens_decoder().values()]
    for text in (
        drawn,
        f" {drawn}{specials[0]} {drawn}".join(specials[:2]),
        *TEXTS[:3],
    ):
        ids = [t.encode(text).ids for t in (first[1], second[1])]
        assert ids[0] == ids[1]
        pairs = [t.encode(text, drawn).ids for t in (first[1], second[1])]
        assert pairs[0] == pairs[1]


@pytest.mark.parametrize("name", OTHER)
@pytest.mark.parametrize("kind", KINDS)
def test_each_edit_is_equal_only_if_texts_are(kind: str, name: str) -> None:
    plain, edited = _edited(kind, ()), _edited(kind, (name,))
    assert plain is not None
    if edited is None or edited[0] != plain[0]:
        return
    for text in (
        "the cat's 12 \n Caf\u00e9 \u65e5",
        " \u65e5\u0301 <unk>cat<s>",
        *TEXTS,
    ):
        assert plain[1].encode(text).ids == edited[1].encode(text).ids


def test_ids_do_not_depend_on_the_flags_of_tokens_that_never_overlap() -> None:
    plain, edited = _edited("gpt2", ()), _edited("gpt2", ("normalized",))
    assert plain is not None
    assert edited is not None
    assert plain[0] == edited[0]
    apart = _edited("gpt2", ("overlapping tokens",))
    mixed = _edited("gpt2", ("overlapping tokens", "normalized"))
    assert apart is not None
    assert mixed is not None
    assert apart[0] != mixed[0]


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ({"vocab": {"a": 0}, "merges": []}, "BPE"),
        ({"vocab": {"a": 0}, "unk_token": "a"}, "WordLevel"),
        ({"vocab": [["a", 0.0]]}, "Unigram"),
        (
            {
                "vocab": {"a": 0},
                "unk_token": "a",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 9,
            },
            "WordPiece",
        ),
    ],
)
def test_models_of_no_stated_type_are_what_the_library_takes_them_for(
    model: Data, kind: str
) -> None:
    data = {"version": "1.0", "added_tokens": [], "model": copy.deepcopy(model)}
    for key in STEPS:
        data[key] = None
    saved = json.loads(Tokenizer.from_str(json.dumps(data)).to_str())
    assert saved["model"]["type"] == kind
    assert canonical(data) == canonical(saved)


@pytest.mark.parametrize("merges", [["ab"], [["a"]], [["a", "b", "c"]], [[]]])
def test_merges_that_are_no_pairs_are_malformed(merges: list[Any]) -> None:
    with pytest.raises(ValueError, match="values to unpack"):
        pairs(merges)
