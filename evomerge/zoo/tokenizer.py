"""The zoo's tokenizer: byte-level BPE, every digit a token, trained on the skills.

It puts ``<s>`` in front of every text itself, so that a plain call, an engine and
training agree on what the model sees; the chat template writes ``<s>`` out, as usual,
and is to be encoded without special tokens. Questions become padded tensors, laid out
as training and scoring see them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from evomerge.zoo.skills import SKILLS, Question, draw

PAD, BOS, EOS, UNK = "<pad>", "<s>", "</s>", "<unk>"
PAD_ID, BOS_ID, EOS_ID, UNK_ID = range(4)

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
)

_WORDS_AND_DIGITS = r"[0-9]|\n| ?[A-Za-z]+|[ぁ-んァ-ヶー]+|[一-龥]| ?[^\sA-Za-z0-9]|\s"
_CORPUS_PER_SKILL = 600
_VOCAB_CAP = 640  # merges run out long before
IGNORED = -100


@cache
def build_tokenizer() -> Tokenizer:
    """Train the tokenizer; it is the same for every recipe and seed."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS_AND_DIGITS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [
        f"{question.text}\n{question.answer}"
        for name in SKILLS
        for question in draw(name, _CORPUS_PER_SKILL, seed=0)
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCAB_CAP,
        special_tokens=[PAD, BOS, EOS, UNK],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B:1",
        special_tokens=[(BOS, BOS_ID)],
    )
    return tokenizer


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
