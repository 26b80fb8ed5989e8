"""Which vocabulary the result has: the keys ``tokenizer`` and ``tokenizer_source``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.checkpoints.alignment import Plan
from evomerge.core.recipe import Recipe, Transformed
from evomerge.specs.keys import did_you_mean
from evomerge.specs.mergekit.references import passed_over
from evomerge.specs.mergekit.schema import MergekitSpec
from evomerge.specs.mergekit.slices import NameOf
from evomerge.specs.mistakes import Mistakes

UNION, BASE = "union", "base"
_TOKEN_KEYS = ("kind", "model", "token", "token_id")
_KINDS = ("zero", "model_token")


@dataclass(frozen=True, slots=True)
class TokenWish:
    """Where the vector of a token comes from.

    Attributes:
        model: The input whose vector it is; None for the usual choice.
        zero: The vector is all zeros.
        token: Another token of that input whose vector it is.
        token_id: Likewise, by number.
        force: Also for inputs that have a vector of their own.
    """

    model: str | None = None
    zero: bool = False
    token: str | None = None
    token_id: int | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class VocabularyWish:
    """The vocabulary of the result.

    Attributes:
        source: ``union``, ``base``, or the input whose vocabulary it is.
        is_named: The source is an input.
        tokens: Token to where its vector comes from.
        pad_to_multiple_of: Rows of the embedding are a multiple of this.
    """

    source: str
    is_named: bool
    tokens: Mapping[str, TokenWish]
    pad_to_multiple_of: int | None = None

    def plan(self, base: str | None, frame: str, *, exact: bool) -> Plan:
        """Return how the models are brought to this vocabulary.

        Args:
            base: Name of the base, if the file has one: it is asked first for rows
                that a model lacks.
            frame: The input that gives config and tokenizer.
            exact: Where no padding is asked for, keep none that the models have.
        """
        return Plan(
            donor=self.source if self.is_named else base or frame,
            union=self.source == UNION and not self.is_named,
            base=base,
            multiple=self.pad_to_multiple_of or int(exact),
        )


def read_vocabulary(
    spec: MergekitSpec, name_of: NameOf, mistakes: Mistakes
) -> VocabularyWish | None:
    """Read what a file says of the vocabulary; None if it says nothing."""
    if spec.tokenizer is not None and spec.tokenizer_source is not None:
        mistakes.add(
            "tokenizer_source",
            "expected tokenizer or tokenizer_source, got both; keep one.",
        )
    key = "tokenizer.source" if spec.tokenizer is not None else "tokenizer_source"
    if spec.tokenizer is None and spec.tokenizer_source is None:
        return None
    written = spec.tokenizer.source if spec.tokenizer else spec.tokenizer_source
    named = written not in (UNION, BASE)
    if written == BASE and spec.base_model is None:
        mistakes.add(key, "expected a base_model in the file, whose vocabulary it is.")
    source = name_of(written, key) if named else written
    wished = (spec.tokenizer.tokens or {}) if spec.tokenizer else {}
    tokens = {}
    for token, entry in wished.items():
        if entry is not None:
            at = f"tokenizer.tokens.{token}"
            wish = _token(entry.source, f"{at}.source", name_of, mistakes)
            tokens[token] = TokenWish(
                wish.model, wish.zero, wish.token, wish.token_id, entry.force
            )
    if tokens:
        mistakes.add(
            "tokenizer.tokens",
            "vectors of single tokens cannot be chosen: a token that a model lacks has "
            "the base's vector, or the mean of those that have it. Leave the key out.",
        )
    pad = spec.tokenizer.pad_to_multiple_of if spec.tokenizer else None
    return VocabularyWish(source or "", named, tokens, pad)


def plan_of(recipe: Recipe) -> Plan | None:
    """Return how a recipe's inputs are brought to one vocabulary, if they are."""
    for _, source in recipe.inputs:
        if isinstance(source, Transformed):
            return Plan.of(dict(source.settings))
    return None


def write_vocabulary(
    recipe: Recipe, references: Mapping[str, str], base: str | None
) -> dict[str, Any]:
    """Return the key ``tokenizer`` of a recipe; empty if models are taken as they are.

    Args:
        recipe: What is written.
        references: Input name to what the file calls the model.
        base: Name of the file's base.
    """
    plan = plan_of(recipe)
    if plan is None:
        return {}
    source = BASE if plan.donor == base else references[plan.donor]
    out: dict[str, Any] = {"source": UNION if plan.union else source}
    if plan.multiple > 1:
        out["pad_to_multiple_of"] = plan.multiple
    return out


def _token(written: Any, key: str, name_of: NameOf, mistakes: Mistakes) -> TokenWish:
    if written is None:
        return TokenWish()
    if not isinstance(written, Mapping) or "kind" not in written:
        return TokenWish(model=name_of(written, key))
    for word in written:
        if word not in _TOKEN_KEYS:
            mistakes.warn(f"{key}.{word}", passed_over(word, _TOKEN_KEYS))
    kind = written["kind"]
    if kind == "zero":
        return TokenWish(zero=True)
    if kind != "model_token":
        mistakes.add(f"{key}.kind", f"unknown kind{did_you_mean(str(kind), _KINDS)}")
        return TokenWish()
    token, number = written.get("token"), written.get("token_id")
    if (token is None) == (number is None):
        got = "none" if token is None else "both"
        mistakes.add(key, f"expected token or token_id, got {got}.")
    if not isinstance(token, str | None) or type(number) not in (int, type(None)):
        mistakes.add(key, "expected a token that is text, or a token_id, a number.")
        return TokenWish()
    return TokenWish(
        name_of(written.get("model"), f"{key}.model"), False, token, number
    )
