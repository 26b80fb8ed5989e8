"""What a node says of itself, and what speaks against it."""

import copy
from pathlib import Path
from typing import Any

import pytest

from evomerge.cluster.report import difference, needed, report_here
from evomerge.testing.search import SmallStudy

OURS: dict[str, Any] = {
    "versions": {"evomerge": "0.1.0", "torch": "2.13.0+cpu", "vllm": None},
    "code": "c" * 64,
}
NAMES = ("evomerge", "torch", "vllm")


def theirs(code: str = "c" * 64, **versions: str | None) -> dict[str, Any]:
    report = copy.deepcopy(OURS)
    report["versions"] |= versions
    report["code"] = code
    return report


def test_this_machine_has_nothing_against_itself(tmp_path: Path) -> None:
    here = report_here()
    assert difference(here, report_here(), needed(SmallStudy().setup(tmp_path))) is None
    assert here["versions"]["ray"] is not None
    assert len(here["code"]) == 64


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (theirs(torch="2.12.1+cpu"), "it has torch 2.12.1+cpu instead of 2.13.0+cpu"),
        (theirs(torch=None), "it has torch missing instead of 2.13.0+cpu"),
        (theirs("d" * 64, evomerge="0.2.0"), "it has evomerge 0.2.0 instead of 0.1.0"),
        (theirs("d" * 64), "other files of evomerge 0.1.0 (dddddddddddd instead of c"),
    ],
)
def test_what_differs_is_named_with_both(report: dict[str, Any], said: str) -> None:
    found = difference(OURS, report, NAMES)
    assert found is not None
    assert said in found


@pytest.mark.parametrize(
    "report",
    [
        theirs(torch="2.13.0+cu130"),  # another build of the same
        theirs(vllm="0.32.0"),  # the coordinator has none
        theirs(lm_eval="0.4.2"),  # not asked for
    ],
)
def test_what_cannot_change_a_score_is_let_pass(report: dict[str, Any]) -> None:
    assert difference(OURS, report, NAMES) is None


def test_a_made_up_study_needs_nothing_but_evomerge(tmp_path: Path) -> None:
    assert needed(SmallStudy().setup(tmp_path)) == ("evomerge",)
