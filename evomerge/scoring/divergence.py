"""How far a candidate's predictions are from those of a reference model.

``kl`` is the Kullback-Leibler divergence D(reference || candidate) of the next token,
in nats, over the whole vocabulary (Kullback and Leibler 1951, equation 2.4): for every
token of a text, from a begin token on, the sum of ``p * (log p - log q)``, averaged
over the text's tokens. A task's score is the mean over its texts, each of which counts
alike. It is 0 for the reference itself and never below.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np

from evomerge.core.measures import Need
from evomerge.errors import CandidateError
from evomerge.scoring.engine import DistributionEngine, Engine
from evomerge.scoring.item_source import Array, Item, ItemSource


class Divergence(ItemSource):
    """The divergence from a reference model on texts.

    Args:
        max_tokens: Tokens of a text that are looked at; the rest is left out.
    """

    metrics: ClassVar[Mapping[str, bool | None]] = {"kl": False}
    needed: ClassVar[frozenset[Need]] = frozenset({Need.ENGINE, Need.REFERENCE})

    def __init__(self, max_tokens: int = 256) -> None:
        if type(max_tokens) is not int or max_tokens < 1:
            raise ValueError(f"max_tokens: expected a number from 1, got {max_tokens}.")
        self._most = max_tokens

    def check(self, items: Sequence[Item], engine: Engine) -> str | None:
        """Say why this engine cannot be asked about these; None if it can."""
        if not hasattr(engine, "distributions"):
            kind = engine.facts["kind"]
            return f"expected an engine that gives the whole vocabulary, got {kind!r}."
        if _start(engine.tokenizer) is None:
            return "expected a tokenizer with a begin or end token, got none."
        return None

    def size_bytes(self, item: Item, engine: Engine) -> int:
        """Return how much ``recorded`` keeps of a text."""
        n_tokens = len(self._tokens(item, engine)) - 1
        return 4 * n_tokens * cast(DistributionEngine, engine).vocab_size

    def recorded(self, items: Sequence[Item], engine: Engine) -> Iterator[Array]:
        """Yield the reference's log-probabilities, ``(n_tokens, n_vocab)``, float32."""
        asked = cast(DistributionEngine, engine)
        for item in items:
            yield asked.distributions(self._tokens(item, engine))

    def measured(
        self, items: Sequence[Item], engine: Engine, kept: Sequence[Array]
    ) -> Iterator[Mapping[str, float]]:
        """Yield each text's divergence.

        Raises:
            CandidateError: The model's numbers are not finite.
        """
        asked = cast(DistributionEngine, engine)
        for item, reference in zip(items, kept, strict=True):
            mine = asked.distributions(self._tokens(item, engine))
            yield {"kl": divergence(reference, mine)}

    def _tokens(self, item: Item, engine: Engine) -> tuple[int, ...]:
        """Return a begin token and those of a text, as far as they are looked at."""
        start = _start(engine.tokenizer)
        tokens = engine.tokenizer.encode(item["text"], add_special_tokens=False)
        most = min(self._most, engine.max_length - 1)
        return (cast(int, start), *tokens[:most])


def divergence(reference: Array, mine: Array) -> float:
    """Return D(reference || mine) in nats, averaged over rows.

    Args:
        reference: Natural log-probabilities, ``(n_tokens, n_vocab)``, float32.
        mine: The same of the candidate.

    Raises:
        CandidateError: Mine are not finite where the reference expects something.
    """
    p = np.asarray(reference, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # what the reference never says adds nothing
        parts = np.where(p == -np.inf, 0.0, np.exp(p) * (p - mine))
    total = float(parts.sum()) / len(p)
    if not np.isfinite(total):
        raise CandidateError(
            "The model's log-probabilities are not finite, although its weights are: "
            "its activations overflow."
        )
    return max(0.0, total)  # rounding alone is below


def _start(tokenizer: Any) -> int | None:
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    return cast("int | None", end if begin is None else begin)
