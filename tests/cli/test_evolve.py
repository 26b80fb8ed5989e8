"""A mergekit-evolve file from the command line: converted, checked, run to its end."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from support.real_study import SUMS_TASK

from evomerge import api
from evomerge.cli.app import app
from evomerge.testing.models import tiny_model

CONFIG = """\
genome:
    models:
       - a
       - b
    merge_method: task_arithmetic
    base_model: base
    layer_granularity: 2
    allow_negative_weights: true
tasks:
  - name: sums
    metric: "acc,none"
limit: 8
num_fewshot: 0
apply_chat_template: false
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVOMERGE_DB", f"sqlite:///{tmp_path}/evolve.db")
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "cache"))
    for seed, name in enumerate(("base", "a", "b")):
        tiny_model(tmp_path / name, seed=seed)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "sums.yaml").write_text(SUMS_TASK)
    rows = [
        f'{{"q": "{k}+{k}", "choices": ["{2 * k}", "{3 * k + 1}"], "answer": {k % 2}}}'
        for k in range(24)
    ]
    (tmp_path / "tasks" / "sums.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "evolve.yml").write_text(CONFIG)
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_configuration_is_converted_and_searched_to_its_end(place: Path) -> None:
    ran = CliRunner().invoke(
        app,
        "study evolve.yml study.yaml --max-fevals 4 --force-population-size 4 "
        "--task-search-path tasks",
    )
    assert ran.exit_code == 0, ran.output
    assert "Note: evolve.yml:12: limit: is 16 here" in ran.stderr
    assert "evomerge check study.yaml" in ran.stdout
    checked = CliRunner().invoke(app, ["check", "study.yaml", "--no-dry-run"])
    assert "no mistakes found" in checked.output
    study = api.run("study.yaml", in_process=True)
    assert study.status().counts["scored"] == 8  # with three parents, and their average


def test_without_a_file_to_write_the_study_is_printed(place: Path) -> None:
    ran = CliRunner().invoke(app, ["study", "evolve.yml"])
    assert ran.exit_code == 0
    assert "sources: {base: base, a: a, b: b}" in ran.stdout
    assert "Note:" in ran.stderr


def test_a_file_that_is_there_is_not_written_over(place: Path) -> None:
    (place / "study.yaml").write_text("mine")
    ran = CliRunner().invoke(app, ["study", "evolve.yml", "study.yaml"])
    assert ran.exit_code != 0
    assert "is there already" in str(ran.exception)
    assert (place / "study.yaml").read_text() == "mine"
