"""Questions as padded tensors, laid out as training and scoring see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.zoo.skills import Question
from evomerge.zoo.tokenizer import EOS_ID, PAD_ID, build_tokenizer

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Examples:
    """Sequences ``<s> question newline answer </s>``.

    Attributes:
        tokens: Shape ``(n, length)``, int64, padded at the end.
        targets: Shape ``(n, length)``, int64: the next token where it belongs to the
            answer or is ``</s>``, else ``IGNORED``.
        lengths: Shape ``(n,)``, int64: tokens of each sequence.
    """

    tokens: Tensor
    targets: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def of(cls, questions: Sequence[Question]) -> Examples:
        """Encode questions."""
        tokenizer = build_tokenizer()
        asked = tokenizer.encode_batch([q.text + "\n" for q in questions])
        answered = tokenizer.encode_batch(
            [q.answer for q in questions], add_special_tokens=False
        )
        pairs = [
            (a.ids, [*b.ids, EOS_ID]) for a, b in zip(asked, answered, strict=True)
        ]
        lengths = torch.tensor([len(a) + len(b) for a, b in pairs])
        shape = (len(pairs), int(lengths.max()))
        tokens = torch.full(shape, PAD_ID)
        targets = torch.full(shape, IGNORED)
        for row, (prompt, answer) in enumerate(pairs):
            start, end = len(prompt), len(prompt) + len(answer)
            tokens[row, :end] = torch.tensor(prompt + answer)
            targets[row, start - 1 : end - 1] = torch.tensor(answer)
        return cls(tokens, targets, lengths)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Give tokens and targets of some rows, cut to the longest among them."""
        longest = int(self.lengths[rows].max())
        return self.tokens[rows, :longest], self.targets[rows, :longest]
