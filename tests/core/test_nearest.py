"""Known names that are suggested for misspelt ones."""

from evomerge.core.nearest import did_you_mean, nearest, suggestion

KNOWN = ("weight", "density", "lambda", "weights")


def test_the_nearest_names_come_first_and_strange_ones_not_at_all() -> None:
    assert nearest("wieght", KNOWN) == ["weight"]
    assert nearest("weigth", KNOWN, n=3) == ["weight", "weights"]
    assert nearest("seed", KNOWN) == []
    assert nearest(5, KNOWN) == []


def test_a_suggestion_is_a_question_or_nothing() -> None:
    assert suggestion("densty", KNOWN) == "did you mean 'density'?"
    assert suggestion("densty", KNOWN, "; ") == "; did you mean 'density'?"
    assert suggestion("seed", KNOWN, "; ") == ""


def test_a_sentence_ends_with_the_nearest_name_or_with_all() -> None:
    assert did_you_mean("densty", KNOWN) == "; did you mean 'density'?"
    assert did_you_mean("x", KNOWN) == "; known: density, lambda, weight, weights."
    assert did_you_mean("x", ()) == "."
    assert did_you_mean("x", map(str, range(100, 200))).count(",") == 29
