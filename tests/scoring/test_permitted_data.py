"""Under an operator's policy a task reads its own files, and runs nothing.

Whatever runs code of a task leaves a mark; whatever reads the secret shows it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evomerge.core.policy import Policy, confined, refuse_hub
from evomerge.core.work import EngineSettings, TaskSettings, WorkerSetup
from evomerge.errors import NotAllowedError, SpecError
from evomerge.scoring.engines import open_engine
from evomerge.scoring.harness.internals import looking_at_files
from evomerge.scoring.harness.loading import load_task
from evomerge.scoring.harness.permitted_data import permitted_data, refuse_file

LINE = '{"question": "1+1", "answer": "2"}\n'
SECRET = '{"question": "the secret", "answer": "2"}\n'
TASK_FILE = {
    "task": "hello",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "hello.jsonl"}},
    "test_split": "test",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "output_type": "generate_until",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 2},
    "metric_list": [{"metric": "exact_match"}],
}


class Ground:
    """A bundle and a root that may be read, and a folder that may not."""

    def __init__(self, path: Path) -> None:
        self.bundle, self.root, self.far = (path / n for n in ("job", "root", "far"))
        self.mark, self.cache = path / "code_ran", path / "cache"
        trap = f"import pathlib\npathlib.Path({str(self.mark)!r}).touch()\n"
        for folder in (self.bundle, self.root, self.far):
            folder.mkdir()
            (folder / "hello.jsonl").write_text(LINE)
            (folder / "evil.py").write_text(f"{trap}def f(docs):\n    return docs\n")
        (self.far / "secret.jsonl").write_text(SECRET)
        (self.root / "link.jsonl").symlink_to(self.far / "secret.jsonl")
        (self.root / "link").symlink_to(self.far)
        (self.bundle / "sub").mkdir()
        card = (
            f"---\nconfigs:\n- config_name: default\n  data_files: {self.far}/*\n---\n"
        )
        (self.bundle / "sub" / "README.md").write_text(card)
        (self.bundle / "sub" / "hello.jsonl").write_text(LINE)
        self.policy = Policy(roots=(str(self.root), str(self.bundle)))

    def load(self, config: dict[str, Any], **changes: Any) -> Any:
        (self.bundle / "hello.yaml").write_text(yaml.safe_dump(config))
        asked = {"task": "hello", "include_path": str(self.bundle), **changes}
        with confined(self.policy):
            return load_task(TaskSettings("mine", **asked), str(self.cache))


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


def files(value: Any, **more: Any) -> dict[str, Any]:
    return {**TASK_FILE, "dataset_kwargs": {"data_files": value, **more}}


def test_a_tasks_own_data_and_those_of_a_root_are_read(ground: Ground) -> None:
    for name in ("hello.jsonl", f"{ground.root}/hello.jsonl", "sub/../hello.jsonl"):
        task = ground.load(files({"test": [name]}))
        assert [doc["answer"] for doc in task.test_docs()] == ["2"]


@pytest.mark.parametrize(
    "name",
    [
        "FAR/secret.jsonl",
        "../far/secret.jsonl",
        "ROOT/../far/secret.jsonl",
        "ROOT/link.jsonl",
        "ROOT/link/secret.jsonl",
        "ROOT/l*/secret.jsonl",
        "ROOT/lin?.jsonl",
        "ROOT/[l]ink.jsonl",
        "ROOT/../fa*/secret.jsonl",
        "**/secret.jsonl",
        "~/secret.jsonl",
        "~root/.bashrc",
        "$HOME/secret.jsonl",
        "file:FAR/secret.jsonl",
        "file://FAR/secret.jsonl",
        "local:FAR/secret.jsonl",
        "FILE:FAR/secret.jsonl",
        "zip://x::FAR/secret.jsonl",
        "https://127.0.0.1/x.jsonl",
        "http://169.254.169.254/latest/meta-data",
        "hf://datasets/org/name/x.jsonl",
        "hf:org/name",
        "/proc/self/environ",
        "/dev/zero",
        "ROOT",
        ".",
        "",
        "nowhere.jsonl",
        "a\0b",
        5,
        None,
        ["hello.jsonl", "FAR/secret.jsonl"],
        {"deep": {"down": ["FAR/secret.jsonl"]}},
    ],
)
def test_no_other_data_are_read(ground: Ground, name: Any) -> None:
    def placed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: placed(part) for key, part in value.items()}
        if isinstance(value, list):
            return [placed(part) for part in value]
        if not isinstance(value, str):
            return value
        return value.replace("FAR", str(ground.far)).replace("ROOT", str(ground.root))

    with pytest.raises(SpecError) as error:
        ground.load(files({"test": placed(name)}))
    assert "data_files" in str(error.value)
    assert "the secret" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"dataset_path": "FAR"}, "dataset_path"),
        ({"dataset_path": "SUB"}, "dataset_path"),
        ({"dataset_path": "org/name"}, "dataset_path: the operator lets nothing be"),
        ({"dataset_path": "csv", "dataset_kwargs": {"data_dir": "FAR"}}, "data_dir"),
        ({"dataset_path": "imagefolder"}, "dataset_path"),
        ({"dataset_path": "SUB/evil.py"}, "dataset_path"),
        ({"include": "FAR/hello.yaml"}, "outside the folder"),
    ],
)
def test_a_data_set_is_no_way_out(
    ground: Ground, changes: dict[str, Any], key: str
) -> None:
    text = yaml.safe_dump({**TASK_FILE, **changes}).replace("FAR", str(ground.far))
    config = yaml.safe_load(text.replace("SUB", str(ground.bundle / "sub")))
    with pytest.raises(SpecError) as error:
        ground.load(config)
    assert key in str(error.value)
    assert not ground.mark.exists()


@pytest.mark.parametrize(
    "card", ["FAR/*", "../../far/secret.jsonl", "../../ro*/l*.jsonl"]
)
def test_the_card_of_a_data_set_is_no_way_out(ground: Ground, card: str) -> None:
    files = card.replace("FAR", str(ground.far))
    text = f"---\nconfigs:\n- config_name: default\n  data_files: {files}\n---\n"
    (ground.bundle / "sub" / "README.md").write_text(text)

    def load() -> Any:
        kept = str(ground.cache / "cards")
        return datasets.load_dataset(str(ground.bundle / "sub"), cache_dir=kept)

    assert load()  # the library reads whatever a card names
    with confined(ground.policy), looking_at_files(refuse_file):
        with pytest.raises(NotAllowedError, match="may not be read here"):
            load()
        (ground.bundle / "sub" / "README.md").unlink()
        assert load()


def test_a_study_cannot_allow_itself_code(ground: Ground) -> None:
    (ground.bundle / "coded.yaml").write_text("process_docs: !function evil.f\n")
    config = {**TASK_FILE, "include": "coded.yaml"}
    with pytest.raises(SpecError, match="operator lets no task run code"):
        ground.load(config, trust_code=True)
    assert not ground.mark.exists()
    ground.policy = Policy(allow_task_code=True, roots=ground.policy.roots)
    with pytest.raises(SpecError, match="runs Python code"):
        ground.load(config)  # nor does the operator's word make it the study's
    assert not ground.mark.exists()
    assert ground.load(config, trust_code=True)
    assert ground.mark.exists()


def test_task_files_lie_where_they_may_be_read(ground: Ground) -> None:
    (ground.far / "hello.yaml").write_text(yaml.safe_dump(TASK_FILE))
    (ground.root / "tasks").symlink_to(ground.far)
    for folder in (ground.far, ground.root / "tasks", ground.root / ".." / "far"):
        with pytest.raises(SpecError, match="may not be read here"):
            ground.load(TASK_FILE, include_path=str(folder))


@pytest.mark.parametrize(
    "laid",
    [
        {"dataset_path": "json", "dataset_kwargs": {"data_files": "FAR/secret.jsonl"}},
        {"dataset_kwargs": {"data_files": "FAR/secret.jsonl"}},
        {"dataset_path": "FAR"},
    ],
)
def test_what_a_group_lays_over_lm_evals_own_task_is_looked_at(
    ground: Ground, laid: dict[str, Any]
) -> None:
    overrides = yaml.safe_load(yaml.safe_dump(laid).replace("FAR", str(ground.far)))
    with pytest.raises(SpecError, match="dataset_"):
        ground.load(TASK_FILE, task="arc_easy", include_path=None, overrides=overrides)


def test_engines_take_no_option_that_the_operator_does_not_list() -> None:
    options = {"model": "/x", "block_size": 16}
    setup = WorkerSetup(
        EngineSettings("simulated", options=options), (), {}, "x", None, ""
    )
    with confined(Policy()), pytest.raises(SpecError, match=r"engine\.options\.model"):
        open_engine(setup)


PIECES = ["..", ".", "a", "link", "sub", "hello.jsonl", "link.jsonl", "*", "~", ""]


@settings(
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.sampled_from(["", "/", "ROOT/", "BUNDLE/", "FAR/", "file:", "hf://"]),
    st.lists(
        st.sampled_from([*PIECES, "root", "far", "job", "secret.jsonl"]), max_size=6
    ),
)
def test_what_is_taken_lies_in_a_root(
    ground: Ground, start: str, pieces: list[str]
) -> None:
    for word in ("root", "far"):
        start = start.replace(word.upper(), str(getattr(ground, word)))
    start = start.replace("BUNDLE", str(ground.bundle))
    config: dict[str, Any] = files({"test": start + "/".join(pieces)})
    try:
        permitted_data(config, ground.bundle, ground.policy)
    except SpecError:
        return
    taken = Path(config["dataset_kwargs"]["data_files"]["test"])
    assert taken == taken.resolve()
    assert taken.is_file()
    assert any(taken.is_relative_to(r.resolve()) for r in (ground.root, ground.bundle))


def test_a_process_is_confined_as_long_as_it_is_said() -> None:
    with confined(Policy()), pytest.raises(NotAllowedError, match="hub: deny"):
        refuse_hub("org/name")
    refuse_hub("org/name")
