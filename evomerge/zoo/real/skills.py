"""What the two experts learn: two-digit sums, and three words in order.

A hash of the operands, whatever their order, keeps a fifth of them for testing: the
expert that saw ``17 + 25`` is never asked ``25 + 17``.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from evomerge.zoo.skills import Question

KEPT_OUT_OF = 5
"""One in so many operand sets is kept for testing."""

EXPERTS = ("add", "sort")

_WORDS = """
    cat dog sun map pen cup hat bag box car key toy bed net jam pie egg fox bee ant owl
    cow pig hen bat rat ram log ice sea sky air oil gas ink gum tea fig nut yam oat rye
    hay fur
"""
_N_ITEMS = 400

Operands = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lesson:
    """A skill, and how it is taught.

    Attributes:
        says: What it is, in a few words.
        operands: Every set of operands, each in ascending order.
        question: Words a question of operands in the order given.
        steps: Updates.
    """

    says: str
    operands: tuple[Operands, ...]
    question: Callable[[Operands], Question]
    steps: int

    def sample(self, rng: np.random.Generator, n: int, *, kept: bool) -> list[Question]:
        """Draw questions, either for training or of those that are kept for testing."""
        those = [o for o in self.operands if is_kept(o) == kept]
        chosen = rng.integers(len(those), size=n).tolist()
        return [self.question(_shuffled(those[k], rng)) for k in chosen]

    def items(self) -> list[Question]:
        """Return the questions of the task: always the same, each operand set once."""
        rng = np.random.default_rng(0)
        those = [o for o in self.operands if is_kept(o)]
        chosen = rng.permutation(len(those))[:_N_ITEMS].tolist()
        return [self.question(_shuffled(those[k], rng)) for k in chosen]


def is_kept(operands: Operands) -> bool:
    """Say whether operands, in any order, are kept for testing."""
    return zlib.crc32(" ".join(sorted(operands)).encode()) % KEPT_OUT_OF == 0


def _shuffled(operands: Operands, rng: np.random.Generator) -> Operands:
    return tuple(operands[k] for k in rng.permutation(len(operands)))


def _add(operands: Operands) -> Question:
    return Question(f"Add: {' + '.join(operands)} =", f" {sum(map(int, operands))}")


def _sort(operands: Operands) -> Question:
    ordered = " ".join(sorted(operands))
    return Question(f"Sort: {' '.join(operands)} =>", f" {ordered}")


_NUMBERS = tuple(map(str, range(10, 100)))

LESSONS = {
    "add": Lesson(
        "the sum of two two-digit numbers", tuple(combinations(_NUMBERS, 2)), _add, 60
    ),
    "sort": Lesson(
        "three words in order",
        tuple(combinations(sorted(_WORDS.split()), 3)),
        _sort,
        40,
    ),
}
"""Both lessons, by the name of the expert that takes it."""
