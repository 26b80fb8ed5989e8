"""The tokenizer of the result: ``tokenizer``, ``tokenizer_source``, ``chat_template``.

Whose tokens it has, and which chat template: the usual one, a known one, or text. The
known ones give the text that mergekit's of the same name give.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.checkpoints import Model
from evomerge.checkpoints.alignment import Plan
from evomerge.checkpoints.tokenizer_notes import chat_templates
from evomerge.checkpoints.tokenizers.tokenizer import read_vocabulary as open_vocabulary
from evomerge.core.nearest import did_you_mean
from evomerge.core.recipes.recipe import Input, Recipe, Transformed
from evomerge.errors import CheckpointError
from evomerge.specs.mergekit.references import passed_over
from evomerge.specs.mergekit.schema import MergekitSpec
from evomerge.specs.mergekit.slices import NameOf
from evomerge.specs.reading.mistakes import Mistakes
from evomerge.specs.vocabulary import brought

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

    def plan(
        self, base: str | None, frame: str, *, exact: bool, merged: Collection[str]
    ) -> Plan:
        """Return how the models are brought to this vocabulary.

        Args:
            base: Name of the base, if the file has one: it is asked first for rows
                that a model lacks.
            frame: The input that gives config and tokenizer.
            exact: As mergekit: where no padding is asked for, keep none that the models
                have, and take no row of a source that is not merged.
            merged: The inputs that are merged.
        """
        return Plan(
            donor=self.source if self.is_named else base or frame,
            union=self.source == UNION and not self.is_named,
            base=base,
            multiple=self.pad_to_multiple_of or int(exact),
            apart=exact and self.is_named and self.source not in merged,
        )


def called(
    plan: Plan,
    models: Mapping[str, Model],
    merged: Collection[str],
    key: str,
    mistakes: Mistakes,
) -> dict[str, Input]:
    """Return what the recipe calls models that are brought to one vocabulary.

    Args:
        plan: How they are brought to it.
        models: All that take part.
        merged: Those that are merged.
        key: Where the file speaks of the vocabulary.
        mistakes: Where to note what is wrong, and what is worth a warning.
    """
    try:
        if plan.donor not in merged:
            mistakes.warn(key, _unmerged(plan, models))
        return brought(models, plan)
    except CheckpointError as error:
        mistakes.add(key, f"expected one vocabulary for all: {error}")
        return {}


def _unmerged(plan: Plan, models: Mapping[str, Model]) -> str:
    """Say what the rows become of a model that gives the tokenizer and no more."""
    start = f"{plan.donor!r} gives the tokenizer but is not merged: "
    if not plan.apart:
        return (
            f"{start}a token that a merged model lacks has the base's row, or the mean "
            f"of all that have it, {plan.donor!r} included."
        )
    found = {name: open_vocabulary(model.path) for name, model in models.items()}
    own = found.pop(plan.donor)
    alone = [
        repr(token)
        for token in own.ids
        if all(other.find(token, own) is None for other in found.values())
    ]
    rest = f" {len(alone)} that no model has get zeros: {', '.join(alone[:3])}"
    return (
        f"{start}as in mergekit, its rows are not used. A token that a model lacks has "
        "the base's row, or the mean of the models that have it."
        + (f"{rest}{', ...' if len(alone) > 3 else '.'}" if alone else "")
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


AUTO = "auto"
_SHORTEST = 20
"""Characters of a template; what is shorter is a word."""

KNOWN: Mapping[str, str] = {
    "chatml": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' ~ message.role ~ '\\n' ~ message.content }}"
        "{{ '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "llama3": (
        "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
        "{{ '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\\n\\n' }}"
        "{{ (message.content | trim) ~ '<|eot_id|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    "exaone": (
        "{% for message in messages %}"
        "{% if loop.first and message.role != 'system' %}"
        "{{ '        [|system|][|endofturn|]\\n\\n' }}{% endif %}"
        "{{ '    [|' ~ message.role ~ '|]' ~ message.content ~ '\\n' }}"
        "{{ '        ' ~ ('' if message.role == 'user' else '[|endofturn|]') }}"
        "{{ '\\n\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '    [|assistant|]\\n' }}{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% set system = messages[0].role == 'system' %}"
        "{% for message in (messages[1:] if system else messages) %}"
        "{% if message.role not in ('user', 'assistant') "
        "or (message.role == 'user') != (loop.index0 is even) %}"
        "{{ raise_exception('After a system message that may be left out, users and "
        "assistants take turns.') }}{% endif %}"
        "{% if message.role == 'user' %}{{ ' [INST] ' }}"
        "{% if loop.first and system %}{{ messages[0].content ~ '\\n\\n' }}{% endif %}"
        "{{ message.content ~ ' [/INST]' }}"
        "{% else %}{{ ' ' ~ message.content ~ eos_token }}{% endif %}{% endfor %}"
    ),
    "alpaca": (
        "{% set said = messages | selectattr('role', 'equalto', 'system') | list %}"
        "{{ (said[-1].content | trim if said else '') ~ '\\n\\n' }}"
        "{% for message in messages %}"
        "{% set title = {'user': 'Instruction', 'assistant': 'Response', "
        "'user_context': 'Input'}.get(message.role) %}"
        "{% if title %}{{ '### ' ~ title ~ ':\\n' ~ (message.content | trim) }}"
        "{% if not loop.last %}{{ '\\n\\n' }}{% endif %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt and messages[-1].role != 'assistant' %}"
        "{{ '### Response:\\n' }}{% endif %}"
    ),
}
"""Name to template; the spaces are mergekit's."""


def read_template(
    written: str | None, models: Mapping[str, Model], mistakes: Mistakes
) -> str | None:
    """Return the chat template of the result; None if it is its tokenizer's.

    Args:
        written: As the file has it.
        models: Every model it names, in its order.
        mistakes: Where to note what is wrong.
    """
    if not written:
        return None
    if written == AUTO:
        usual = (chat_templates(m.path).get("default", "") for m in models.values())
        found = Counter(text.strip() for text in usual if text.strip())
        if not found:
            mistakes.warn(
                "chat_template", "changes nothing: no model has a chat template."
            )
        return max(found, key=lambda text: found[text], default=None)
    if written in KNOWN:
        return KNOWN[written]
    if len(written) < _SHORTEST or "{" not in written:
        mistakes.add(
            "chat_template",
            f"expected {AUTO}, {', '.join(KNOWN)}, or a template in Jinja, got "
            f"{written!r}.",
        )
        return None
    return written
