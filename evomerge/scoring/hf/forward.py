"""One forward pass of any transformers model, by the arguments that its class takes.

Classes differ in what they can be told: where tokens stand, which are padding, whether
only some logits are wanted, and what their cache is called. What a class says of its
own ``forward`` decides here; there is no list of families.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch

from evomerge.errors import CheckpointError

_CACHES = ("past_key_values", "cache_params", "state")
"""What models call their cache, as an argument and in what they return."""

Way = Literal["padded", "placed", "ragged", "anew"]
"""How answers grow: prompts padded on the left; each row reading on for itself, told
where it stands or not; or without a cache."""


@dataclass(frozen=True)
class Forward:
    """A model as it can be called.

    Attributes:
        model: A transformers model that gives logits, in evaluation mode.
        takes: Names of the arguments of its ``forward``.
        takes_more: It hands further arguments on.
        cache: Name of its cache; None if it keeps none.
        stateful: It remembers a state of what it read, not only keys and values.
    """

    model: Any
    takes: frozenset[str]
    takes_more: bool
    cache: str | None
    stateful: bool

    @classmethod
    def of(cls, model: Any) -> Forward:
        """Look at a model.

        Raises:
            CheckpointError: It cannot be asked about text alone.
        """
        found = dict(inspect.signature(model.forward).parameters)
        more = any(one.kind is one.VAR_KEYWORD for one in found.values())
        required = [
            name
            for name, one in found.items()
            if one.default is one.empty
            and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
            and name != "input_ids"
        ]
        if required:
            raise CheckpointError(
                f"{type(model).__name__} cannot be asked about text alone: every call "
                f"needs {required[0]!r}. Merge such models without scoring them, with "
                "evomerge merge."
            )
        return cls(
            model,
            frozenset(found),
            more,
            next((name for name in _CACHES if name in found), None),
            any(getattr(one, "_is_stateful", False) for one in model.modules()),
        )

    @property
    def ways(self) -> tuple[Way, ...]:
        """Ways in which answers might grow, the quickest first.

        A recurrent state would read padding, and a model that counts tokens by itself
        would count it.
        """
        ways: list[Way] = []
        placed = "position_ids" in self.takes
        if self.cache and placed and "attention_mask" in self.takes:
            ways += [] if self.stateful else ["padded"]
        if self.cache:
            ways += ["placed", "ragged"] if placed else ["ragged"]
        return (*ways, "anew")

    @property
    def vocab_size(self) -> int:
        """Columns of the logits."""
        return int(self.model.config.get_text_config().vocab_size)

    def __call__(
        self,
        ids: torch.Tensor,
        keep: int | torch.Tensor,
        *,
        cache: Any = None,
        use_cache: bool = False,
        mask: torch.Tensor | None = None,
        position: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, Any]:
        """Run the model.

        Args:
            ids: Tokens, ``(n_rows, n_tokens)``, int64.
            keep: Columns whose logits are wanted: the last ones, or these.
            cache: As the call before returned it.
            use_cache: Return a cache for the next call.
            mask: 0 where a token is padding, ``(n_rows, n_tokens so far)``.
            position: Where each token stands, ``(n_rows, n_tokens)``.

        Returns:
            Logits ``(n_rows, n_kept, n_vocab)``, and the cache.
        """
        given: dict[str, Any] = {"input_ids": ids}
        if "use_cache" in self.takes or self.takes_more:
            given["use_cache"] = use_cache
        if use_cache and cache is not None and self.cache is not None:
            given[self.cache] = cache
        if mask is not None:
            given["attention_mask"] = mask
        if position is not None:
            given["position_ids"] = position
        fewer = "logits_to_keep" in self.takes
        if fewer:
            given["logits_to_keep"] = keep
        out = self.model(**given)
        logits = out.logits
        if not fewer:
            logits = logits[:, -keep:] if isinstance(keep, int) else logits[:, keep]
        held = getattr(out, self.cache, None) if use_cache and self.cache else None
        return logits, held

    @torch.inference_mode()
    def check_causal(self) -> None:
        """Make sure that the model computes text, and no token sees what follows it.

        Raises:
            CheckpointError: It does not; the message says what to do.
        """
        device = self.model.device
        first = torch.arange(2, device=device)
        rows = torch.tensor([[5, 6, 7, 8], [5, 9, 7, 8]], device=device)
        name = type(self.model).__name__
        try:
            one, other = (self(row[None], first)[0][0, 0].float() for row in rows)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise CheckpointError(
                f"{name} computes nothing for text alone: {type(error).__name__}: "
                f"{error}. Such a model can be merged, but not scored here."
            ) from error
        scale = one.abs().max().clamp_min(1e-6)
        # Sums of one length in another order differ by far less, in any type.
        if bool((one - other).abs().max() > 0.02 * scale):
            hint = ""
            if getattr(self.model.config, "is_decoder", True) is False:
                hint = " A decoder of this class has is_decoder: true in config.json."
            raise CheckpointError(
                f"{name} lets every token of a text see those after it, so it gives no "
                f"probability of what follows.{hint}"
            )
