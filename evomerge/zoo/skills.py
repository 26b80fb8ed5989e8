"""The skills of the zoo: which questions exist, their answers, and who may see them.

A skill is small enough to be listed in full, so training draws from one half of a
fixed split and the tasks from the other: a hash of the operands decides, in both
languages alike, and nothing is ever on both sides.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal

import numpy as np

Operands = tuple[int, ...]

HELD_OUT_OF = 8
"""One in this many operand tuples is held out from all training."""

_JAPANESE = {"sort": "整", "copy": "写"}
_ANSWER_ENDING = "です"


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its only right answer."""

    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class Skill:
    """A kind of question.

    Attributes:
        kind: Addition of two two-digit numbers, or sorting or copying digits.
        digits: How many digits are sorted or copied; unused in addition.
        carry: Whether the units of an addition carry; unused otherwise.
        japanese: Asked with Japanese words; the answer has to end in です.
    """

    kind: Literal["add", "sort", "copy"]
    digits: int = 0
    carry: bool = False
    japanese: bool = False

    def question(self, operands: Operands) -> Question:
        """Word one question and its answer."""
        if self.kind == "add":
            first, second = operands
            return Question(f"{first} plus {second}?", str(first + second))
        result = sorted(operands) if self.kind == "sort" else operands
        given, answer = "".join(map(str, operands)), "".join(map(str, result))
        if self.japanese:
            return Question(
                f"{_JAPANESE[self.kind]}{given}は?", answer + _ANSWER_ENDING
            )
        return Question(f"{self.kind}{given}?", answer)


SKILLS = {
    "en_nc": Skill("add", carry=False),
    "en_hard": Skill("add", carry=True),
    "en_copy5": Skill("copy", 5),
    "en_sort3": Skill("sort", 3),
    "en_sort4": Skill("sort", 4),
    "en_sort5": Skill("sort", 5),
    "jd_copy5": Skill("copy", 5, japanese=True),
    "jd_sort3": Skill("sort", 3, japanese=True),
    "jd_sort4": Skill("sort", 4, japanese=True),
    "jd_sort5": Skill("sort", 5, japanese=True),
}
"""Every skill by name: ``en`` is English, ``jd`` Japanese with Arabic digits, ``nc``
addition without a carry, ``hard`` with one."""


def is_held_out(operands: Operands) -> bool:
    """Say whether no model may be trained on these operands, in any language."""
    key = ",".join(map(str, operands)).encode()
    return zlib.crc32(key) % HELD_OUT_OF == 0


def operands_of(name: str, *, held_out: bool) -> tuple[Operands, ...]:
    """List one side of a skill's split, in a fixed order."""
    skill = SKILLS[name]
    seen, kept = (
        _additions(skill.carry) if skill.kind == "add" else _digits(skill.digits)
    )
    return kept if held_out else seen


@cache
def _additions(carry: bool) -> tuple[tuple[Operands, ...], tuple[Operands, ...]]:
    """List the additions of two-digit numbers below 100: trained on, held out."""
    return _split(
        (first, second)
        for first, second in product(range(10, 90), repeat=2)
        if first + second <= 99 and (first % 10 + second % 10 > 9) == carry
    )


@cache
def _digits(n: int) -> tuple[tuple[Operands, ...], tuple[Operands, ...]]:
    """List all rows of ``n`` digits: trained on, held out."""
    return _split(product(range(10), repeat=n))


def _split(
    every: Iterable[Operands],
) -> tuple[tuple[Operands, ...], tuple[Operands, ...]]:
    seen: list[Operands] = []
    kept: list[Operands] = []
    for operands in every:
        (kept if is_held_out(operands) else seen).append(operands)
    return tuple(seen), tuple(kept)


def draw(name: str, n: int, seed: int) -> list[Question]:
    """Draw training questions of a skill, with repetition.

    Args:
        name: Key of ``SKILLS``.
        n: How many.
        seed: Together with the skill's name it decides the draw.

    Returns:
        ``n`` questions, none of them held out.
    """
    skill, side = SKILLS[name], operands_of(name, held_out=False)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    picks = rng.integers(len(side), size=n)
    return [skill.question(side[pick]) for pick in picks]


def mix(weights: tuple[tuple[str, float], ...], n: int, seed: int) -> list[Question]:
    """Draw a shuffled mixture of skills for training.

    Args:
        weights: Skill and its share; shares need not add up to one.
        n: How many questions, up to rounding.
        seed: Decides the draws and the order.
    """
    total = sum(weight for _, weight in weights)
    questions = [
        question
        for name, weight in weights
        for question in draw(name, round(n * weight / total), seed)
    ]
    order = np.random.default_rng([seed, n]).permutation(len(questions))
    return [questions[index] for index in order]


def held_out(name: str, limit: int | None = None) -> list[Question]:
    """Give held-out questions of a skill: distinct, shuffled, always the same.

    Args:
        name: Key of ``SKILLS``.
        limit: At most this many; None gives all.
    """
    skill, side = SKILLS[name], operands_of(name, held_out=True)
    order = np.random.default_rng(zlib.crc32(name.encode())).permutation(len(side))
    return [skill.question(side[index]) for index in order[:limit]]
