"""A study file is sent with what it names, and reads the same elsewhere."""

import json
from pathlib import Path

import pytest

from evomerge.client import bundled
from evomerge.client.bundling import Bundled, name_of
from evomerge.errors import SpecError
from evomerge.specs.studies.study_file import load_parts

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "search_spaces").glob("*.yaml"))


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def unpacked(found: Bundled, folder: Path) -> Path:
    found.bundle.write(folder)
    return folder / "study.yaml"


def text_of(found: Bundled, name: str = "study.yaml") -> str:
    return found.bundle.files[name].decode()


def problems_of(raised: pytest.ExceptionInfo[SpecError]) -> str:
    return str(raised.value)


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_a_study_of_this_repository_is_the_same_once_it_was_sent(
    study: Path, tmp_path: Path
) -> None:
    (here,) = load_parts(study)[:1]
    there_file = unpacked(bundled(study), tmp_path / "bundle")
    (there,) = load_parts(there_file)[:1]
    assert there.spec.name == here.spec.name
    assert there.spec.model_dump(exclude={"sources", "tasks", "evaluators"}) == (
        here.spec.model_dump(exclude={"sources", "tasks", "evaluators"})
    )
    for name, task in here.spec.tasks.items():
        if task.include is not None:
            sent = there.spec.tasks[name].include
            assert sent is not None
            assert tmp_path in sent.parents
            assert {f.name for f in sent.iterdir()} == {
                f.name for f in task.include.iterdir()
            }


def test_comments_and_all_else_stay_as_they_are(tmp_path: Path) -> None:
    study = "# mine\nsources: {a: org/model}  # from the hub\nspace: {x: 1}\n"
    found = bundled(write(tmp_path, {"my.yaml": study}) / "my.yaml")
    assert text_of(found) == f'{study}name: "my"\n'
    assert found.name == "my"


def test_a_study_that_has_a_name_and_stands_above_its_files_is_not_touched(
    tmp_path: Path,
) -> None:
    study = "name: x\nsources: {a: org/model}\nevaluators: [e/all.yaml]\n"
    write(tmp_path, {"s.yaml": study, "e/all.yaml": "tasks: {}\n"})
    found = bundled(tmp_path / "s.yaml")
    assert {name: text_of(found, name) for name in found.bundle.files} == {
        "study.yaml": study,
        "e/all.yaml": "tasks: {}\n",
    }


@pytest.mark.parametrize(
    "study",
    [
        '{"sources": {"a": "org/m"}}',
        "  sources: {a: org/m}\n  seed: 1\n",
        "---\nsources: {a: org/m}\n...\n",
        "sources:\n  a: |\n    text\n",
        "sources: {a: org/m}\n\n  # a comment at the end",
        "sources:\n- a\n- b",
        "a: &x {b: 1}\n<<: *x\nsources: {}\n",
    ],
)
def test_a_name_is_added_whatever_form_the_file_has(study: str, tmp_path: Path) -> None:
    found = bundled(write(tmp_path, {"named.yaml": study}) / "named.yaml")
    assert name_of(found.bundle.files) == found.name == "named"


def test_files_beside_above_and_below_keep_their_places(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "searches/deep/s.yaml": "evaluators:\n"
            "  - ../../evals/all.yaml\n"
            "  - {file: near.yaml, only: [t]}\n"
            "start: [{name: mine, recipe: ../recipes/r.yaml}]\n"
            "stages: [{name: one, start: [{name: two, recipe: ../recipes/q.yaml}]}]\n",
            "searches/deep/near.yaml": "tasks: {t: {include: '../../more'}}\n",
            "searches/recipes/r.yaml": "{}\n",
            "searches/recipes/q.yaml": "{}\n",
            "evals/all.yaml": "tasks: {u: {include: tasks}}\n",
            "evals/tasks/u.yaml": "task: u\n",
            "evals/tasks/.hidden": "no\n",
            "evals/tasks/__pycache__/x.pyc": "no\n",
            "more/t.yaml": "task: t\n",
            "more/data/t.jsonl": "{}\n",
        },
    )
    found = bundled(tmp_path / "searches/deep/s.yaml")
    assert sorted(found.bundle.files) == [
        "evals/all.yaml",
        "evals/tasks/u.yaml",
        "more/data/t.jsonl",
        "more/t.yaml",
        "searches/deep/near.yaml",
        "searches/recipes/q.yaml",
        "searches/recipes/r.yaml",
        "study.yaml",
    ]
    said = text_of(found)
    for name in (
        "evals/all.yaml",
        "searches/deep/near.yaml",
        "searches/recipes/r.yaml",
    ):
        assert json.dumps(name) in said
    assert text_of(found, "searches/deep/near.yaml").endswith("'../../more'}}\n")


def test_the_same_files_elsewhere_are_the_same_bundle(tmp_path: Path) -> None:
    files = {
        "a/s.yaml": "evaluators: [../b/e.yaml]\n",
        "b/e.yaml": "tasks: {t: {include: .}}\n",
    }
    one, two = (
        bundled(write(tmp_path / place, files) / "a/s.yaml") for place in ("x", "y/z")
    )
    assert one.bundle.digest == two.bundle.digest


def test_absolute_names_of_files_become_relative(tmp_path: Path) -> None:
    write(tmp_path, {"e/all.yaml": "tasks: {}\n"})
    write(tmp_path, {"s/s.yaml": f"evaluators: [{tmp_path / 'e/all.yaml'}]\n"})
    assert '"e/all.yaml"' in text_of(bundled(tmp_path / "s/s.yaml"))


def test_models_that_are_folders_here_become_absolute(tmp_path: Path) -> None:
    for name in ("models/a", "models/lora", "s"):
        (tmp_path / name).mkdir(parents=True)
    study = write(
        tmp_path,
        {
            "s/s.yaml": "sources:\n"
            "  here: ../models/a\n"
            "  both: ../models/a+../models/lora\n"
            "  mixed: org/base+../models/lora\n"
            "  gone: ../models/gone\n"
            "  hub: org/model@main\n"
            "  sure: hf://org/model\n"
            "  theirs: /models/big\n"
        },
    )
    found = bundled(study / "s/s.yaml")
    models = tmp_path / "models"
    said = text_of(found)
    assert f'here: "{models}/a"' in said
    assert f'both: "{models}/a+{models}/lora"' in said
    assert f'mixed: "org/base+{models}/lora"' in said
    assert f'gone: "{models}/gone"' in said
    for same in ("hub: org/model@main", "sure: hf://org/model", "theirs: /models/big"):
        assert same in said


def test_models_in_recipes_are_found_too(tmp_path: Path) -> None:
    (tmp_path / "r/models/a").mkdir(parents=True)
    write(
        tmp_path,
        {
            "s.yaml": "start: [{name: x, recipe: r/r.yaml}]\n",
            "r/r.yaml": "models: [{model: models/a}, {model: org/b}]\n"
            "base_model: models/a\ndtype: bfloat16\n",
        },
    )
    said = text_of(bundled(tmp_path / "s.yaml"), "r/r.yaml")
    assert said.count(f'"{tmp_path}/r/models/a"') == 2
    assert "model: org/b" in said


def test_every_file_that_is_missing_is_named_with_its_line(tmp_path: Path) -> None:
    study = (
        "evaluators: [gone.yaml]\ntasks:\n  t: {include: nowhere}\n"
        "start:\n  - {name: a, recipe: no.yaml}\n"
    )
    with pytest.raises(SpecError) as raised:
        bundled(write(tmp_path, {"s.yaml": study}) / "s.yaml")
    said = problems_of(raised)
    assert "s.yaml:1: evaluators.0: expected a file, got 'gone.yaml'" in said
    assert "s.yaml:3: tasks.t.include: expected a folder" in said
    assert "s.yaml:5: start.0.recipe: expected a file, got 'no.yaml'" in said


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "s.yaml: cannot be read: No such file"),
        ({"s.yaml": "a: [\n"}, "s.yaml:2: expected YAML"),
        ({"s.yaml": "- a\n"}, "expected a mapping"),
        (
            {"s.yaml": "evaluators: [e.yaml]\n", "e.yaml": "tasks: {\n"},
            "e.yaml:2: expected YAML",
        ),
        (
            {"s/s.yaml": "evaluators: [../study.yaml]\n", "study.yaml": "tasks: {}\n"},
            "would have the name of the study file",
        ),
        (
            {"s/s.yaml": "evaluators: [&x ../e.yaml]\n", "e.yaml": "tasks: {}\n"},
            "in quotes, without an anchor",
        ),
    ],
)
def test_what_cannot_be_sent_is_told(
    files: dict[str, str], said: str, tmp_path: Path
) -> None:
    write(tmp_path, files)
    study = tmp_path / ("s/s.yaml" if "s/s.yaml" in files else "s.yaml")
    with pytest.raises(SpecError) as raised:
        bundled(study)
    assert said in problems_of(raised)


def test_too_much_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "s.yaml": "tasks:\n  t: {include: big}\n  u: {include: many}\n",
            "big/data.jsonl": "x" * (9 << 20),
            **{f"many/{n}.yaml": "" for n in range(201)},
        },
    )
    with pytest.raises(SpecError) as raised:
        bundled(tmp_path / "s.yaml")
    said = problems_of(raised)
    assert "at most 8 MiB are sent" in said
    assert "data.jsonl (9.4 MB)" in said
    assert "many holds 201 files; at most 200 are sent" in said


def test_a_link_among_task_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"s.yaml": "tasks: {t: {include: t}}\n", "t/a.yaml": ""})
    (tmp_path / "t/secret.txt").symlink_to("/etc/passwd")
    with pytest.raises(SpecError) as raised:
        bundled(tmp_path / "s.yaml")
    assert "is a link; put the file itself there" in problems_of(raised)


def test_values_of_the_wrong_kind_are_left_to_the_cluster(tmp_path: Path) -> None:
    study = "name: [1]\nsources: 3\nevaluators: {a: b}\ntasks: [x]\nstart: no\n"
    found = bundled(write(tmp_path, {"s.yaml": study}) / "s.yaml")
    assert text_of(found) == study
