import json
from pathlib import Path

import pytest
import yaml

from evomerge.zoo.tasks import TASKS, questions, task_files, write_tasks

SHIPPED = Path(__file__).parents[2] / "evaluators" / "tasks"


@pytest.mark.parametrize("task", sorted(TASKS))
def test_shipped_task_files_are_what_the_code_writes(task: str) -> None:
    for name, text in task_files(task).items():
        assert (SHIPPED / name).read_text(encoding="utf-8") == text


def test_shipped_task_files_are_small() -> None:
    shipped = [SHIPPED / name for task in TASKS for name in task_files(task)]
    assert sum(path.stat().st_size for path in shipped) < 300_000


def test_the_written_folder_holds_two_files_a_task(tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks")
    names = {path.name for path in (tmp_path / "tasks").iterdir()}
    assert names == {name + end for name in TASKS for end in (".yaml", ".jsonl")}


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_task_file_names_itself_and_its_data(task: str) -> None:
    files = task_files(task)
    read = yaml.safe_load(files[f"{task}.yaml"])
    assert read["task"] == task
    assert read["dataset_kwargs"]["data_files"] == {"test": f"{task}.jsonl"}
    assert read["doc_to_text"] == "{{question}}\n"
    rows = [json.loads(line) for line in files[f"{task}.jsonl"].splitlines()]
    assert [row["question"] for row in rows] == [q.text for q in questions(task)]
    assert len({row["question"] for row in rows}) == len(rows)


def test_tasks_have_as_many_questions_as_documented() -> None:
    sizes = {task: len(questions(task)) for task in TASKS}
    assert sizes.pop("en_hard") == 165
    assert sizes.pop("en_sort3_mc") >= 100
    assert set(sizes.values()) == {800}


def test_a_choice_has_three_different_answers_and_the_right_one_anywhere() -> None:
    text = task_files("en_sort3_mc")["en_sort3_mc.jsonl"]
    rows = [json.loads(line) for line in text.splitlines()]
    for row, question in zip(rows, questions("en_sort3_mc"), strict=True):
        assert len(set(row["choices"])) == 3
        assert row["choices"][row["label"]] == question.answer
        assert all(len(choice) == 3 for choice in row["choices"])
    places = [row["label"] for row in rows]
    assert all(places.count(place) > len(places) / 5 for place in range(3))
