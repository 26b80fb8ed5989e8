"""One tokenizer for the tokens of several: the first one's, with the others' added.

Ids of the first tokenizer stay. Added tokens of the others become added tokens;
ordinary ones go into the vocabulary of its model, for BPE with the merges that lead to
them, after all of its own. So text is first cut as the first tokenizer cuts it and then
joined further where another one has a longer token: every token can be reached, and
text always comes back as it went in.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evomerge.checkpoints.tokenizers.canonical_form import pairs
from evomerge.checkpoints.tokenizers.tokenizer import LISTED, Vocabulary, readable
from evomerge.errors import CheckpointError

_MUST_AGREE = ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")


@dataclass(slots=True)
class Union:
    """The tokens of several vocabularies under one numbering.

    Attributes:
        first: The vocabulary that is added to.
        new: Token it lacks to id, in order of ids.
        spelt_by: Those tokens, to the vocabulary they come from.
        special: Those of them that are added tokens, as their own file describes them.
        scores: Scores of ordinary ones, for a model that keeps scores.
        merges: Further merges of a BPE model, in order.
    """

    first: Vocabulary
    new: dict[str, int] = field(default_factory=dict)
    spelt_by: dict[str, Vocabulary] = field(default_factory=dict)
    special: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    merges: list[tuple[str, str]] = field(default_factory=list)

    def text(self) -> str:
        """Return the ``tokenizer.json``.

        Raises:
            CheckpointError: The first tokenizer's ids have gaps that its kind of model
                cannot express.
        """
        data = copy.deepcopy(dict(self.first.data))
        model = data["model"]
        # Added tokens stand in the model too, or their ids would follow from its size.
        own = {token: self.first.ids[token] for token in self.first.added}
        if self.first.kind == LISTED:
            model["vocab"] = self._listed(model["vocab"], {**own, **self.new})
        else:
            model["vocab"] = {**model["vocab"], **own, **self.new}
        if "merges" in model:
            model["merges"] = _merged(model["merges"], self.merges)
        data["added_tokens"] = [*(data.get("added_tokens") or ()), *self.special]
        return json.dumps(data, ensure_ascii=False, indent=1) + "\n"

    def _listed(
        self, entries: Sequence[Sequence[Any]], further: Mapping[str, int]
    ) -> list[list[Any]]:
        listed = [list(entry) for entry in entries]
        for token, number in sorted(further.items(), key=lambda t: t[1]):
            if number > len(listed):
                raise CheckpointError(
                    f"{self.first.file}: has no token with id {len(listed)}; a union "
                    "needs ids without gaps. Take another model's vocabulary."
                )
            if number == len(listed):
                listed.append([token, self.scores.get(token, 0.0)])
        return listed


def unite(vocabularies: Sequence[Vocabulary]) -> Union:
    """Add the tokens of further vocabularies to the first.

    Args:
        vocabularies: The first is the one that is added to; order decides ids.

    Raises:
        CheckpointError: Tokens are missing whose tokenizer works in another way, so
            that they mean nothing to the first.
    """
    first, *others = vocabularies
    out = Union(first)
    for other in others:
        missing = [
            token
            for token in sorted(other.ids, key=lambda t: (other.ids[t], t))
            if first.find(token, other) is None and token not in out.new
        ]
        ordinary = [token for token in missing if token not in other.added]
        for token in missing:
            out.new[token] = first.size + len(out.new)
            out.spelt_by[token] = other
        out.special += _entries(other, missing, out.new)
        if ordinary:
            _check_alike(first, other)
            _take_ordinary(out, other, ordinary)
    return out


def _entries(
    other: Vocabulary, missing: Sequence[str], ids: Mapping[str, int]
) -> list[dict[str, Any]]:
    wanted = other.added.intersection(missing)
    written = other.data.get("added_tokens") or ()
    found = {entry["content"]: entry for entry in written}
    return [
        {**found[token], "id": ids[token]}
        for token in sorted(wanted, key=lambda t: ids[t])
    ]


def _check_alike(first: Vocabulary, other: Vocabulary) -> None:
    differs = [
        f"{what} {theirs!r}, not {ours!r}"
        for what, ours, theirs in (
            ("model", first.kind, other.kind),
            ("spelling", first.spelling, other.spelling),
            *(
                (key, first.data["model"].get(key), other.data["model"].get(key))
                for key in _MUST_AGREE
            ),
        )
        if (ours or None) != (theirs or None)
    ]
    if differs:
        raise CheckpointError(
            f"{other.file}: works in another way than {first.file} "
            f"({'; '.join(differs)}), so one tokenizer cannot hold the tokens of both. "
            "Take the vocabulary of one of the models instead of the union."
        )


def _take_ordinary(out: Union, other: Vocabulary, ordinary: Sequence[str]) -> None:
    model = other.data["model"]
    if other.kind == LISTED:
        scores = {piece[0]: float(piece[1]) for piece in model["vocab"]}
        out.scores |= {token: scores[token] for token in ordinary}
    known = out.first.ids.keys() | out.new.keys()
    own = set(_merges(out.first)) | set(out.merges)
    prefix = model.get("continuing_subword_prefix") or ""
    for pair in _merges(other):
        left, right = pair
        joined = left + right.removeprefix(prefix)
        if pair not in own and {left, right, joined} <= known:
            out.merges.append(pair)


def _merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    with readable(vocabulary.file):
        return pairs(vocabulary.data["model"].get("merges") or ())


def _merged(own: Sequence[Any], further: Sequence[tuple[str, str]]) -> list[Any]:
    """Append merges in the form that the file has."""
    if own and isinstance(own[0], str):
        return [*own, *(" ".join(pair) for pair in further)]
    return [*own, *(list(pair) for pair in further)]
