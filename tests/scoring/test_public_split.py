"""Searching on the public test split of a benchmark is told, with the way out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from evomerge.core.work import TaskSettings
from evomerge.scoring.harness.loading import load_task
from evomerge.scoring.harness.task_survey import searched_in_public

SPLITS = {"test_split": "test", "validation_split": "dev"}


def said(folder: Path, splits: dict[str, str], **settings: str) -> str | None:
    """What is told of a task with these splits, were it one of lm-eval's library."""
    (folder / "rows.jsonl").write_text(
        "\n".join(json.dumps({"q": f"{n}?", "a": str(n)}) for n in range(20))
    )
    files = dict.fromkeys(("test", "dev"), "rows.jsonl")
    task = {
        "task": "known",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{a}}",
        "output_type": "generate_until",
        "generation_kwargs": {"until": ["\n"], "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
        **splits,
    }
    (folder / "known.yaml").write_text(yaml.safe_dump(task))
    own = TaskSettings("known", "known", include_path=str(folder), **settings)
    built = load_task(own, str(folder / "cache"))
    assert searched_in_public(built, own) is None  # one's own is nobody's benchmark
    return searched_in_public(built, replace(own, include_path=None))


def test_items_of_the_test_split_are_told_with_the_split_to_use(tmp_path: Path) -> None:
    told = said(tmp_path, SPLITS)
    assert told is not None
    assert "('test')" in told
    assert "items: {search_split: dev, report_split: test}" in told


def test_a_task_that_has_no_other_split_is_told_so(tmp_path: Path) -> None:
    assert "no other split" in (said(tmp_path, {"test_split": "test"}) or "")


@pytest.mark.parametrize(
    ("splits", "settings"),
    [
        (SPLITS, {"search_split": "dev", "report_split": "test"}),
        ({"validation_split": "dev"}, {}),
    ],
)
def test_another_split_is_searched_on_without_a_word(
    tmp_path: Path, splits: dict[str, str], settings: dict[str, str]
) -> None:
    assert said(tmp_path, splits, **settings) is None
