"""Which row of each model's embedding stands for which token of one vocabulary.

The target is the vocabulary of one model, the donor, or the union of all. Rows that
belong to no token (padding, or ids left out) are the donor's for every model, so they
come out of a merge as they are.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast, get_args

from evomerge.checkpoints.model import Model
from evomerge.checkpoints.tokenizers.tokenizer import (
    TOKENIZER,
    Vocabulary,
    read_vocabulary,
)
from evomerge.checkpoints.tokenizers.union import unite
from evomerge.core.digest import Scalar, digest
from evomerge.errors import CheckpointError

Missing = Literal["owner", "mean", "zero"]
"""What a model gets for a token it lacks: the base's row, or else its owners' mean; the
mean over all owners; zeros."""

TRANSFORM = "vocabulary"
"""What recipes call an input whose rows are brought to another vocabulary."""

_VERSION = 1
ABSENT = -1


@dataclass(frozen=True, slots=True)
class Plan:
    """What vocabulary is wanted.

    Attributes:
        donor: Name of the model that gives the tokenizer.
        union: Whether the others' tokens are added to the donor's.
        missing: What a model gets for a token it lacks.
        base: Name of the model that is asked first for a missing row, if any.
        multiple: The number of rows is rounded up to a multiple of this, leaving out
            the donor's own padding; 0 keeps the donor's rows.
        apart: The donor gives no rows to the others; a token that only it has gets
            zeros.
    """

    donor: str
    union: bool = False
    missing: Missing = "owner"
    base: str | None = None
    multiple: int = 0
    apart: bool = False

    def settings(self) -> tuple[tuple[str, Scalar], ...]:
        """Return the plan as plain pairs."""
        return (
            ("base", self.base or ""),
            ("donor", self.donor),
            ("missing", self.missing),
            ("multiple", self.multiple),
            ("union", self.union),
            *((("apart", True),) if self.apart else ()),
        )

    @classmethod
    def of(cls, settings: Mapping[str, Scalar]) -> Plan:
        """Read plain pairs.

        Raises:
            CheckpointError: A setting is missing or of no known kind.
        """
        try:
            donor, base = settings["donor"], settings["base"]
            missing, multiple = settings["missing"], settings["multiple"]
            union, apart = settings["union"], settings.get("apart", False)
        except KeyError as error:
            raise CheckpointError(
                f"A vocabulary is planned without {error.args[0]!r}."
            ) from error
        if (
            not isinstance(donor, str)
            or not isinstance(base, str)
            or missing not in get_args(Missing)
            or type(multiple) is not int
            or multiple < 0
            or not isinstance(union, bool)
            or not isinstance(apart, bool)
        ):
            raise CheckpointError(f"A vocabulary is planned by {dict(settings)!r}.")
        wanted = cast(Missing, missing)
        return cls(donor, union, wanted, base or None, multiple, apart)


@dataclass(frozen=True)
class Alignment:
    """Models brought to one vocabulary.

    Attributes:
        plan: What was wanted.
        maps: Model to its own row for each row of the target, or ``ABSENT``.
        is_token: For each row of the target, whether it stands for a token.
        tokenizer: Text of the ``tokenizer.json``; None where the donor's own serves.
        unchanged: Models that have the target's tokenizer and number of rows already.
    """

    plan: Plan
    maps: Mapping[str, tuple[int, ...]]
    is_token: tuple[bool, ...]
    tokenizer: str | None
    unchanged: frozenset[str]

    @property
    def rows(self) -> int:
        """Rows of the embedding, padding included."""
        return len(self.is_token)

    @cached_property
    def statistics(self) -> str:
        """The alignment's name: equal for equal rows and equal tokenizers."""
        names = {name: _hashed(ids) for name, ids in self.maps.items()}
        return digest(
            {
                "version": _VERSION,
                "maps": names,
                "tokens": _hashed(self.is_token),
                "tokenizer": self.tokenizer,
            }
        )

    def special_tokens(
        self, name: str, own: Mapping[str, Any], donor: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the ids of special tokens in the target, for a configuration.

        The donor's count, since it keeps its ids and gives the tokenizer; what only the
        model names is moved with its token, or nothing where the target lacks it.

        Args:
            name: The model.
            own: Its configuration.
            donor: The donor's.
        """
        moved = {was: row for row, was in enumerate(self.maps[name]) if was != ABSENT}
        out: dict[str, Any] = {}
        for key in sorted(own.keys() | donor.keys()):
            if key.endswith(("_token_id", "_token_ids")):
                theirs = donor.get(key)
                out[key] = _moved(own.get(key), moved) if theirs is None else theirs
        return out


def rows_of(model: Model) -> int:
    """Return how many rows a model's embedding has."""
    return model.tensors[model.layout.embed].shape[0]


def align(models: Mapping[str, Model], plan: Plan) -> Alignment:
    """Find for each model which of its rows stands for which token.

    Raises:
        CheckpointError: A model has no ``tokenizer.json`` though the tokenizers
            differ, or no union can be made.
    """
    for model in models.values():
        _refuse_further_tables(model)
    donor = models[plan.donor]
    if _are_alike(models) and not (donor.path / TOKENIZER).is_file():
        return _by_place(models, plan)
    found = {name: read_vocabulary(model.path) for name, model in models.items()}
    first = found[plan.donor]
    others = [found[name] for name in found if name != plan.donor and plan.union]
    union = unite([first, *others])
    # A tokenizer may know more tokens than its model has rows: they cannot be used,
    # unless a union gives them rows.
    tokens = {
        number: (token, first)
        for number, token in first.tokens.items()
        if union.new or number < rows_of(donor)
    }
    tokens |= {n: (token, union.spelt_by[token]) for token, n in union.new.items()}
    rows = _n_rows(max(tokens, default=0) + 1, rows_of(donor), plan.multiple)
    maps = {
        name: _map(vocabulary, rows_of(models[name]), tokens, rows)
        for name, vocabulary in found.items()
    }
    text = union.text() if union.new else None
    is_token = tuple(row in tokens for row in range(rows))
    return Alignment(
        plan, maps, is_token, text, _unchanged(models, plan, rows, text is None)
    )


def _refuse_further_tables(model: Model) -> None:
    """Refuse a model of which further parts know tokens by their numbers."""
    kinds = ", ".join(sorted(model.beside))
    tables = f"{kinds} beside its text decoder" if kinds else ""
    if model.decoder.get("vocab_size_per_layer_input") is not None:
        tables = "a further table of tokens"
    if tables:
        raise CheckpointError(
            f"{model.path}: has {tables}, which knows tokens by their numbers, so it "
            "cannot be brought to another vocabulary. Merge models of one tokenizer."
        )


def _by_place(models: Mapping[str, Model], plan: Plan) -> Alignment:
    """Align models of one tokenizer by the number of the row alone."""
    if plan.multiple:
        read_vocabulary(models[plan.donor].path)  # says what is missing
    rows = rows_of(models[plan.donor])
    shared = min(rows_of(model) for model in models.values())
    maps = {
        name: tuple(row if row < rows_of(model) else ABSENT for row in range(rows))
        for name, model in models.items()
    }
    is_token = tuple(row < shared for row in range(rows))
    return Alignment(plan, maps, is_token, None, _unchanged(models, plan, rows, True))


def _map(
    own: Vocabulary,
    n_own: int,
    tokens: Mapping[int, tuple[str, Vocabulary]],
    rows: int,
) -> tuple[int, ...]:
    out = [ABSENT] * rows
    for row, (token, of) in tokens.items():
        found = own.find(token, of)
        if found is not None and found < n_own:
            out[row] = found
    return tuple(out)


def _n_rows(n_tokens: int, n_donor: int, multiple: int) -> int:
    if multiple:
        return -(-n_tokens // multiple) * multiple
    return max(n_tokens, n_donor)


def _are_alike(models: Mapping[str, Model]) -> bool:
    names = {(model.tokenizer_digest, model.vocabulary) for model in models.values()}
    return len(names) == 1


def _unchanged(
    models: Mapping[str, Model], plan: Plan, rows: int, donor_serves: bool
) -> frozenset[str]:
    wanted = models[plan.donor].tokenizer_digest
    return frozenset(
        name
        for name, model in models.items()
        if donor_serves and model.tokenizer_digest == wanted and rows_of(model) == rows
    )


def _moved(ids: Any, moved: Mapping[int, int]) -> Any:
    if isinstance(ids, list):
        return [moved[one] for one in ids if one in moved] or None
    return moved.get(ids) if isinstance(ids, int) else None


def _hashed(numbers: Sequence[int]) -> str:
    return hashlib.blake2b(array("q", numbers).tobytes(), digest_size=16).hexdigest()
