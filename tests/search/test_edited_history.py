"""A recorded row that was edited by hand stops the search, loudly."""

from pathlib import Path

import pytest
from support.searched import by_hand, contents, search_small

from evomerge.core.study import Budget, StrategySettings
from evomerge.errors import ReplayError
from evomerge.testing.search import SmallStudy

SIZE = 5
LAST = 5
N_BASELINES = 2


def study_of(strategy: str, n_trials: int) -> SmallStudy:
    return SmallStudy(
        StrategySettings(strategy, SIZE),
        Budget(trials=n_trials),
        objectives=("x", "y") if strategy == "nsga2" else ("x",),
    )


def first_of(generation: int) -> int:
    """Number of a generation's first trial."""
    return N_BASELINES + (generation - 1) * SIZE


def change(column: str, old: str, new: str, generation: int) -> str:
    return (
        f"UPDATE em_trial SET {column} = replace({column}, '{old}', '{new}') "
        f"WHERE number = {first_of(generation + 1) - 1}"
    )


POINT = '{"a":0.123,"b":0.456}'
# Generation of which a trial is changed, how, and the generation that is named.
# CMA-ES and NSGA-II are asked every generation again, TPE the last one.
EDITS = {
    ("cma", "point"): (2, 2),
    ("cma", "scores"): (2, 3),
    ("tpe", "point"): (2, LAST),
    ("tpe", "scores"): (2, LAST),
    ("nsga2", "point"): (2, 2),
    ("nsga2", "scores"): (2, 3),
}


QUICK = {("cma", "point")}


@pytest.mark.parametrize(
    ("strategy", "column"),
    [
        pytest.param(*edit, marks=() if edit in QUICK else pytest.mark.slow)
        for edit in EDITS
    ],
)
def test_an_edited_row_is_named_with_study_and_generation(
    any_url: str, tmp_path: Path, strategy: str, column: str
) -> None:
    search_small(any_url, tmp_path, study_of(strategy, LAST * SIZE))
    edited, named = EDITS[strategy, column]
    if column == "point":
        where = f"WHERE number = {first_of(edited)}"
        by_hand(any_url, f"UPDATE em_trial SET point = '{POINT}' {where}")
    else:
        # The last one becomes better than all, in every objective: ranks change.
        by_hand(
            any_url,
            change("scores", '"x/acc":', '"x/acc":7', edited),
            change("scores", '"y/acc":', '"y/acc":7', edited),
        )
    before = contents(any_url)
    with pytest.raises(ReplayError, match=f"Study 'small', generation {named}") as told:
        search_small(any_url, tmp_path, study_of(strategy, (LAST + 1) * SIZE))
    assert "The recorded rows were changed" in str(told.value)
    after = contents(any_url)
    assert {**after, "finished": None} == {**before, "finished": None}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["tpe", "nsga2"])
def test_an_edited_memory_is_named(any_url: str, tmp_path: Path, strategy: str) -> None:
    search_small(any_url, tmp_path, study_of(strategy, LAST * SIZE))
    by_hand(
        any_url,
        f"UPDATE em_generation SET memory = '{{\"odd\":1}}' WHERE number = {LAST}",
    )
    with pytest.raises(ReplayError, match=f"generation {LAST}"):
        search_small(any_url, tmp_path, study_of(strategy, (LAST + 1) * SIZE))
