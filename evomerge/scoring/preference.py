"""How often a reward model rates the better of two answers higher.

``accuracy`` is the share of pairs whose chosen text has the higher reward, where equal
rewards count half (RewardBench, 2403.13787); ``margin`` the mean difference. What
averages of reward models are searched for (WARM, 2401.12187).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

from evomerge.scoring.engine import Engine, RewardingEngine
from evomerge.scoring.item_source import Array, Item, ItemSource


class Preference(ItemSource):
    """Pairs of texts, one of which was preferred.

    Args:
        chat: Put prompt and answer into the tokenizer's chat template; else they are
            joined as they stand.
    """

    metrics: ClassVar[Mapping[str, bool | None]] = {"accuracy": True, "margin": True}
    keys: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    of_rewards: ClassVar[bool] = True

    def __init__(self, *, chat: bool = False) -> None:
        if not isinstance(chat, bool):
            raise ValueError(f"chat: expected true or false, got {chat!r}.")
        self._chat = chat

    def check(self, items: Sequence[Item], engine: Engine) -> str | None:
        """Say why this engine cannot be asked about these; None if it can."""
        if self._chat and engine.tokenizer.chat_template is None:
            return "options.chat: expected a tokenizer with a chat template, got none."
        for item in items:
            for key in self.keys:
                n_tokens = len(self._tokens(item, key, engine.tokenizer))
                if not 0 < n_tokens <= engine.max_length:
                    return (
                        f"expected texts of 1 to {engine.max_length} tokens, got "
                        f"{n_tokens} of {key} {item[key]!r:.60}; leave the item out, "
                        "or raise engine.max_model_len."
                    )
        return None

    def measured(
        self, items: Sequence[Item], engine: Engine, kept: Sequence[Array]
    ) -> Iterator[Mapping[str, float]]:
        """Yield accuracy and margin of each pair.

        Raises:
            CandidateError: The model's rewards are not finite.
        """
        del kept
        asked, tokenizer = cast(RewardingEngine, engine), engine.tokenizer
        for item in items:
            texts = [self._tokens(item, key, tokenizer) for key in self.keys]
            chosen, rejected = asked.rewards(texts)
            margin = chosen - rejected
            right = 0.5 if margin == 0.0 else float(margin > 0.0)
            yield {"accuracy": right, "margin": margin}

    def _tokens(self, item: Item, key: str, tokenizer: Any) -> tuple[int, ...]:
        prompt = str(item.get("prompt", ""))
        if not self._chat:
            return tuple(tokenizer.encode(prompt + item[key]))
        turns = [{"role": "user", "content": prompt}] if prompt else []
        turns.append({"role": "assistant", "content": item[key]})
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        return tuple(tokenizer.encode(text, add_special_tokens=False))
