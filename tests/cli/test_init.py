"""`evomerge init`: what it writes is a study that the real check passes."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.testing.models import tiny_model

TASKS = Path(__file__).parents[1] / "scoring" / "tasks"


def begun(call: Any, here: Path, *words: object) -> dict[str, Any]:
    """Write a study, let it be checked, and return what is in it."""
    made = call("init", "first.yaml", *words)
    assert made.code == 0, made.err
    assert "evomerge check first.yaml" in made.out
    checked = call("check", "first.yaml")
    assert checked.code == 0, checked.err
    assert "no mistakes found" in checked.out
    text = (here / "first.yaml").read_text()
    assert all(len(line) < 100 for line in text.splitlines())
    return yaml.safe_load(text)


def models(*names: str, layers: int = 4) -> list[str]:
    return [w for n in names for w in ("--model", f"{n}=simulated:{n}/{layers}")]


def tasks(n: int) -> list[str]:
    """So many tasks of one's own, or a made-up one."""
    return ["--task", "simulated"] if n == 1 else [
        *("--engine", "simulated", "--include", str(TASKS)),
        *(w for name in ("sums", "pets", "endings")[:n] for w in ("--task", name)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "n_tasks", "wanted"),
    [
        (("base", "math", "ja"), 1, "cma"),
        (("base", "math", "ja"), 2, "nsga2"),
        (("base", "math"), 3, "nsga3"),
        (("math", "no"), 1, "cma"),
        (("math",), 1, "grid"),
    ],
)
def test_what_is_written_passes_the_check(
    call, here: Path, names: tuple[str, ...], n_tasks: int, wanted: str
) -> None:
    base = ["--base", "base"] if "base" in names else []
    study = begun(call, here, *models(*names, layers=30), *base, *tasks(n_tasks))
    assert study["strategy"] == {"kind": wanted}
    assert list(study["sources"]) == list(names)
    assert len(study["objectives"]) == n_tasks
    assert study["space"].get("base") == (base[1] if base else None)


def test_models_are_looked_at_and_written_from_the_files_folder(
    call, here: Path
) -> None:
    for name, layers in (("a", 2), ("b", 2), ("deep", 3)):
        tiny_model(here / "models" / name, seed=layers, n_layers=layers)
    (here / "studies").mkdir()
    given = ("--model", "models/a", "--model", "models/b", "--task", "simulated")
    made = call("init", "studies/one.yaml", *given)
    assert "Llama, 2 layers: they can be merged." in made.out
    study = yaml.safe_load((here / "studies" / "one.yaml").read_text())
    assert study["sources"] == {"a": "../models/a", "b": "../models/b"}
    assert call("check", "studies/one.yaml").code == 0
    given = ("--model", "models/a", "--model", "models/deep", "--task", "simulated")
    study = begun(call, here, *given)
    assert study["space"]["flow"]["kind"] == "gates"


def test_what_differs_between_models_is_said_and_allowed_in_the_file(
    call, here: Path
) -> None:
    for seed, name in enumerate("ab"):
        tiny_model(here / name, seed=seed, n_layers=2)
    config = here / "b" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rope_theta": 5e5}))
    study = begun(call, here, "--model", "a", "--model", "b", "--task", "simulated")
    assert study["allow"] == ["rope"]


def test_nothing_is_overwritten(call, here: Path) -> None:
    (here / "mine.yaml").write_text("mine")
    said = call("init", "mine.yaml", *models("a", "b"), "--task", "simulated")
    assert said.code == 2
    assert "this one exists" in said.err
    assert (here / "mine.yaml").read_text() == "mine"


def test_mistakes_leave_no_file(call, here: Path) -> None:
    for words, told in (
        ((*models("a", "b"), "--base", "c"), "expected one of the models, a, b"),
        (("--model", "a=./nowhere"), "there is no folder './nowhere'"),
        ((*models("a"), "--model", "a=b"), "expected each name once"),
        ((*models("a"), "--include", TASKS, "--task", "sumz"), "nearest are sums"),
        ((*models("a"), "--model", "b=simulated:b/c"), "expected simulated:NAME"),
    ):
        task = () if "--task" in words else ("--task", "simulated")
        said = call("init", "first.yaml", *words, *task)
        assert said.code == 2, said.out
        assert told in said.err
        assert not (here / "first.yaml").exists()


def test_a_model_of_a_hub_is_not_fetched_to_write_a_file(call, here: Path) -> None:
    words = ("--model", "math=org/math@v2", "--base", "base", *models("base"))
    made = call("init", "first.yaml", *words, "--task", "simulated", "--json")
    assert made.code == 0, made.err
    (note,) = (n for n in json.loads(made.out)["notes"] if "math" in n)
    assert "is not on this machine" in note
    study = yaml.safe_load((here / "first.yaml").read_text())
    assert study["sources"]["math"] == "org/math@v2"


def test_the_dry_run_of_the_readme_needs_no_model(call, here: Path) -> None:
    shipped = Path(__file__).parents[2] / "search_spaces" / "simulated.yaml"
    study = yaml.safe_load(shipped.read_text()) | {"budget": {"trials": 4}}
    (here / "dry.yaml").write_text(yaml.safe_dump(study))
    ended = call("run", "dry.yaml", "--in-process")
    assert ended.code == 0, ended.err
    assert "4 trials" in ended.out
    assert call("front", "dry").code == 0
