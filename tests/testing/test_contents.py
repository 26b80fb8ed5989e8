"""What is compared after a kill: every difference is seen, and called by its name."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.contents import NOTHING, Contents, Verdict, contents, verdict
from support.doomed import Doom, Life, live, promised

KINDS = ("lost", "doubled", "different", "faults")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Life:
    folder = tmp_path_factory.mktemp("study")
    life = Life(f"sqlite:///{folder}/calm.db", str(folder), "nsga2", 7)
    live(life, Doom(life))
    return life


@pytest.fixture
def calm(study: Life) -> Contents:
    return contents(study.url)


def seen(verdict: Verdict) -> set[str]:
    return {kind for kind in KINDS if getattr(verdict, kind)}


def without(there: Mapping[Any, Any], key: Any) -> dict[Any, Any]:
    return {k: v for k, v in there.items() if k != key}


def test_a_study_equals_itself_and_has_all_that_was_promised(study, calm) -> None:
    lines = promised(study.folder).read_text().splitlines()
    kinds = {json.loads(line)[0] for line in lines}
    assert kinds == {"trials", "attempt", "outcomes", "end"}
    assert seen(verdict(calm, calm, promised(study.folder), over=True)) == set()


def test_nothing_is_no_loss_until_something_was_promised_or_it_is_over(
    study, calm, tmp_path: Path
) -> None:
    unwritten = tmp_path / "promised"
    assert seen(verdict(calm, NOTHING, unwritten, over=False)) == set()
    assert seen(verdict(calm, NOTHING, unwritten, over=True)) == {"lost"}
    unwritten.write_text('["trials", 1]\n')
    assert seen(verdict(calm, NOTHING, unwritten, over=False)) == {"lost"}


@pytest.mark.parametrize("part", ["candidates", "ends", "outcomes"])
def test_what_is_missing_more_or_otherwise_is_told_apart(study, calm, part) -> None:
    there = getattr(calm, part)
    first = max(there)
    file = promised(study.folder)
    fewer = replace(calm, **{part: without(there, first)})
    assert "lost" in seen(verdict(calm, fewer, file, over=True))
    assert "doubled" in seen(verdict(fewer, calm, file, over=True))
    other = replace(calm, **{part: {**there, first: object()}})
    assert "different" in seen(verdict(calm, other, Path("none"), over=True))


def test_items_charged_once_too_often_are_doubled_and_faults_are_told(
    study, calm
) -> None:
    file = promised(study.folder)
    more = replace(calm, items=calm.items + 1)
    assert seen(verdict(calm, more, file, over=False)) == {"doubled"}
    faulty = replace(calm, faults=("trial 1: wrong",))
    assert seen(verdict(calm, faulty, file, over=False)) == {"faults"}
