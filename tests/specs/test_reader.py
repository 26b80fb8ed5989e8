import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import SpecError
from evomerge.specs.reading import yamlfile
from evomerge.specs.reading.yamlfile import MAX_BYTES, parse_yaml, read_yaml
from evomerge.specs.studies.study_file import load_evaluators, load_parts, load_study

Write = Callable[..., Path]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "file", sorted((ROOT / "search_spaces").glob("*.yaml")), ids=lambda f: f.stem
)
def test_every_shipped_study_loads(file: Path) -> None:
    assert all(part.spec.tasks for part in load_parts(file))
    assert file.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize(
    "file", sorted((ROOT / "evaluators").glob("*.yaml")), ids=lambda f: f.stem
)
def test_every_shipped_evaluator_loads(file: Path) -> None:
    assert all(task.metric for task in load_evaluators(file).tasks.values())


def test_the_demo_searches_24_weights() -> None:
    from evomerge.specs.planning.planned import Setting
    from evomerge.specs.planning.planner import plan_space
    from evomerge.specs.reading.mistakes import Mistakes

    spec = load_study(ROOT / "search_spaces" / "demo.yaml")
    prints = {name: name for name in spec.sources}
    mistakes = Mistakes("demo.yaml")
    planned = plan_space(
        spec.space, Setting(prints, 6, "base", "float32", 0), "space", mistakes
    )
    assert planned is not None
    assert not mistakes.found
    assert len(planned.space.axes) == 24


def test_tasks_of_evaluator_files_are_taken_over_key_by_key(
    minimal: dict[str, Any], write: Write, tmp_path: Path
) -> None:
    task = {"include": "local", "metric": "acc", "items": {"limit": 9, "blocks": 2}}
    write({"tasks": {"copy": task, "sort": task, "left": task}}, "tasks.yaml")
    minimal["evaluators"] = [{"file": "tasks.yaml", "only": ["copy", "sort"]}]
    minimal["tasks"]["copy"] = {"num_fewshot": 2, "items": {"limit": 5}}
    spec = load_study(write(minimal))
    assert set(spec.tasks) == {"add", "copy", "sort"}
    copy = spec.tasks["copy"]
    assert (copy.metric, copy.num_fewshot) == ("acc", 2)
    assert (copy.items.limit, copy.items.blocks) == (5, 2)
    assert copy.include == tmp_path / "local"


def test_a_task_that_an_evaluator_file_lacks_is_refused(
    minimal: dict[str, Any], write: Write
) -> None:
    write({"tasks": {"copy": {"metric": "acc"}}}, "tasks.yaml")
    minimal["evaluators"] = [{"file": "tasks.yaml", "only": ["cpoy"]}]
    with pytest.raises(SpecError, match="only: unknown task 'cpoy'; did you mean"):
        load_study(write(minimal))


def test_a_list_where_a_task_of_an_evaluator_file_is_named_is_refused(
    minimal: dict[str, Any], write: Write
) -> None:
    write({"tasks": {"copy": {"metric": "acc"}}}, "tasks.yaml")
    minimal["evaluators"] = [{"file": "tasks.yaml", "only": [["copy"]]}]
    with pytest.raises(SpecError, match=r"evaluators\.0\.only\.0"):
        load_study(write(minimal))


def test_mistakes_of_an_evaluator_file_bear_its_name(
    minimal: dict[str, Any], write: Write
) -> None:
    write({"tasks": {"copy": {"metrik": "acc"}}}, "tasks.yaml")
    minimal["evaluators"] = ["tasks.yaml"]
    with pytest.raises(SpecError, match=r"tasks.yaml:\d: tasks\.copy\.metrik: unk"):
        load_study(write(minimal))


def test_scientific_notation_is_a_number() -> None:
    assert parse_yaml("a: 1e-3\nb: -2E4\nc: 1.5e3\nd: 1e", "f") == {
        "a": 1e-3,
        "b": -2e4,
        "c": 1500.0,
        "d": "1e",
    }


@pytest.mark.parametrize("number", [1 << 63, -(1 << 63) - 1, 10**400])
def test_a_number_that_no_float_can_hold_is_refused(number: int) -> None:
    with pytest.raises(SpecError, match=r"f:1: a\.0: expected a number of 64 bits"):
        parse_yaml(f"a: [{number}]", "f")


def test_whole_numbers_of_64_bits_are_read() -> None:
    assert parse_yaml(f"a: {2**63 - 1}\nb: {-(2**63)}", "f")["a"] == 2**63 - 1


def test_anchors_may_be_used_in_reason() -> None:
    text = "a: &usual {low: 0, high: 1}\nb: *usual\nc: {<<: *usual, high: 2}\n"
    data = parse_yaml(text, "f")
    assert data["b"] == {"low": 0, "high": 1}
    assert data["c"] == {"low": 0, "high": 2}


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "huge.yaml"
    file.write_bytes(b"a" * (MAX_BYTES + 1))
    with pytest.raises(SpecError, match=f"at most {MAX_BYTES} bytes"):
        load_study(file)


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes("name: Grün".encode("latin-1"))
    with pytest.raises(SpecError, match="UTF-8"):
        load_study(file)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(SpecError, match="levels of nesting"):
        parse_yaml("a: " + "[" * 5000 + "]" * 5000, "f")


def test_anchors_that_nest_each_other_too_deep_are_refused() -> None:
    links = "".join(f"a{i}: &a{i} [[[*a{i - 1}]]]\n" for i in range(1, 400))
    with pytest.raises(SpecError, match="at most 40 levels"):
        parse_yaml(f"a0: &a0 1\n{links}", "f")


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "[[1],", "? "])
def test_nesting_without_end_is_refused_in_any_notation(opening: str) -> None:
    with pytest.raises(SpecError, match=r"at most 40 levels|expected YAML"):
        parse_yaml(opening * 100_000, "f")


def test_a_file_of_too_many_values_is_not_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(yamlfile, "MAX_NODES", 1000)
    with pytest.raises(SpecError, match="at most 1000 values"):
        parse_yaml("a: [" + "1," * 1000 + "{{ no YAML", "f")


def test_a_study_that_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "study.yaml")
    for file in (tmp_path / "study.yaml", Path("/dev/zero"), tmp_path):
        with pytest.raises(SpecError, match="expected a regular file"):
            read_yaml(file)
