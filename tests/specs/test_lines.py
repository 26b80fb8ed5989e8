"""Mistakes name the file and the line that hold their key."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.core.survey import Surveyed
from evomerge.core.work import TaskSettings
from evomerge.errors import Problem, SpecError
from evomerge.scoring.harness.task_files import read_task_file
from evomerge.specs.reading.yamlfile import parse_documents, parse_yaml
from evomerge.specs.recipes import open_recipe
from evomerge.specs.studies.study_file import load_parts, read_studies

TEXT = """\
# A comment, so that lines are not those of keys.
usual: &usual
  low: 0
  high: 1
list:
  - one

  - {two: 2,
     three: 3}
again: *usual
over:
  <<: *usual
  more: 1
a.b:
  c.d: 1
a: {b: 1}
"""


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("usual", 2),
        ("usual.high", 4),
        ("usual.high.unknown", 4),
        ("usual.unknown", 2),
        ("list", 5),
        ("list.0", 6),
        ("list.1", 8),
        ("list.1.three", 9),
        ("list.2", 5),
        ("again.low", 3),
        ("over.high", 4),
        ("over.more", 13),
        ("a.b.c.d", 15),
        ("a.b.c", 14),
    ],
)
def test_a_key_is_placed_where_it_or_the_innermost_around_it_stands(
    key: str, line: int
) -> None:
    assert parse_yaml(TEXT, "f").lines.place(key) == ("f", line)


@pytest.mark.parametrize("key", ["", "unknown", "unknown.low", "usua"])
def test_a_key_that_is_not_there_has_no_line(key: str) -> None:
    assert parse_yaml(TEXT, "f").lines.place(key) is None
    assert str(parse_yaml(TEXT, "f").lines.problem(key, "x")).startswith("f: ")


def test_documents_of_one_file_have_lines_of_the_file() -> None:
    one, two = parse_documents("a: 1\n---\n\nb: {c: 1}\n", "f")
    assert one.lines.place("a") == ("f", 1)
    assert two.lines.place("b.c") == ("f", 4)
    assert str(two.lines.problem("b", "no.")) == "f:4 (document 2): b: no."
    assert str(two.lines.problem("", "no.")) == "f:4 (document 2): no."


def test_a_problem_has_file_and_line_beside_its_key() -> None:
    problem = parse_yaml(TEXT, "f").lines.problem("usual.low", "expected more.")
    assert problem == Problem("f: usual.low", "expected more.", "f", 3)
    assert str(problem) == "f:3: usual.low: expected more."


def said_of(study: Path, **more: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_parts(study, **more)
    return [
        str(problem).partition(": expected")[0] for problem in caught.value.problems
    ]


def test_a_mistake_in_a_task_of_an_evaluator_file_names_that_file(
    minimal: dict[str, Any], write: Any
) -> None:
    (file := write({}, "tasks.yaml")).write_text(
        "version: 1\ntasks:\n  copy:\n    task: simulated\n    metric: acc\n"
    )
    minimal["evaluators"] = [file.name]
    minimal["tasks"] = {"copy": {"num_fewshot": 2}, "own": {"metric": "acc"}}

    def survey(tasks: Any) -> Surveyed:
        assert all(isinstance(task, TaskSettings) for task in tasks)
        keys = ("copy.metric", "copy.num_fewshot", "copy.prompt", "own")
        return Surveyed(problems=tuple(Problem(key, "expected x.") for key in keys))

    lines = write(minimal).read_text().splitlines()
    own = {key: lines.index(f"    {key}") + 1 for key in ("num_fewshot: 2",)}
    copy, other = (lines.index(f"  {key}:") + 1 for key in ("copy", "own"))
    assert said_of(write(minimal), survey=survey) == [
        "tasks.yaml:5: tasks.copy.metric",
        f"study.yaml:{own['num_fewshot: 2']}: tasks.copy.num_fewshot",
        f"study.yaml:{copy}: tasks.copy.prompt",
        f"study.yaml:{other}: tasks.own",
    ]


def test_a_mistake_in_a_stage_names_the_line_of_the_stage(
    minimal: dict[str, Any], write: Any
) -> None:
    budget = minimal.pop("budget")
    minimal["stages"] = [
        {"name": "one", "budget": budget},
        {"name": "two", "budget": {"trials": 0}},
    ]
    file = write(minimal)
    line = file.read_text().splitlines().index("    trials: 0") + 1
    assert said_of(file) == [f"study.yaml:{line}: stages.1.budget.trials"]


def test_warnings_have_lines(minimal: dict[str, Any], write: Any) -> None:
    minimal["objectives"] = [{"name": "it", "measure": "add", "direction": "minimize"}]
    file = write(minimal)
    line = file.read_text().splitlines().index("  direction: minimize") + 1
    (study,) = read_studies(file)
    (warning,) = [w for w in study.warnings if "objectives" in w.where]
    assert str(warning).startswith(f"study.yaml:{line}: objectives.0.direction: ")


def test_a_mistake_in_a_later_document_of_a_mergekit_file_names_its_line(
    zoo: Path,
) -> None:
    models = yaml.safe_dump({"models": [{"model": str(zoo / "math")}]})
    one = f"merge_method: linear\nname: one\nparameters: {{weight: 1}}\n{models}"
    file = zoo / "merge.yml"
    file.write_text(
        f"{one}---\nmerge_method: linear\nparameters: {{wight: 1}}\n"
        "models: [{model: one}]\n"
    )
    with pytest.raises(SpecError) as caught:
        open_recipe(file, strict=True)
    wrong = str(caught.value.problems[0])
    assert wrong.startswith("merge.yml:8 (document 2): parameters.wight: ")


def test_a_recipe_names_the_line(minimal: dict[str, Any], write: Any) -> None:
    space = minimal["space"] | {"knobs": {"weight": 0.5, "lambda": "much"}}
    file = write({"sources": minimal["sources"], **space})
    with pytest.raises(SpecError) as caught:
        open_recipe(file)
    line = file.read_text().splitlines().index("  lambda: much") + 1
    assert f"study.yaml:{line}: knobs.lambda: " in str(caught.value)


def test_keys_of_included_task_files_name_the_included_file(tmp_path: Path) -> None:
    (tmp_path / "usual.yaml").write_text("task: a\nrepeats: 1\noutput_type: x\n")
    (tmp_path / "mine.yaml").write_text("include: usual.yaml\n\nrepeats: 2\n")
    read = read_task_file(tmp_path / "mine.yaml", tmp_path)
    assert read.lines.place("repeats") == ("mine.yaml", 3)
    assert read.lines.place("output_type") == ("usual.yaml", 3)
    assert read == {"task": "a", "repeats": 2, "output_type": "x"}
