"""Words counted by rule, against words listed one by one."""

from itertools import combinations, product

import pytest

from evomerge.core.flow.size import n_subsequences, n_words_near


def distance(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Levenshtein's, by the whole table."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            last, row[j] = row[j], min(last + (a != b), row[j] + 1, row[j - 1] + 1)
    return row[-1]


@pytest.mark.parametrize("word", ["", "a", "abab", "aabb", "abcabc", "abcba"])
def test_subsequences_are_counted_once_each(word: str) -> None:
    for fewest in range(3):
        listed = {
            tuple(word[i] for i in places)
            for n in range(fewest, len(word) + 1)
            for places in combinations(range(len(word)), n)
        }
        assert n_subsequences(word, fewest, len(word)) == len(listed)


@pytest.mark.parametrize("length", [0, 1, 2, 3])
@pytest.mark.parametrize("more", [0, 1, 2])
@pytest.mark.parametrize("most", [1, 2, 3])
def test_words_near_a_word_are_counted_once_each(
    length: int, more: int, most: int
) -> None:
    n_letters = length + more
    word = tuple(range(length))
    for bounds in ((0, 9), (length, length), (max(length - 1, 1), length + 1)):
        listed = sum(
            distance(word, other) <= most
            for n in range(bounds[0], min(bounds[1], length + most) + 1)
            for other in product(range(n_letters), repeat=n)
        )
        assert n_words_near(length, n_letters, most, bounds) == listed


def test_counting_is_given_up_where_too_much_must_be_kept() -> None:
    assert n_words_near(30, 64, 12, (15, 60)) is None
