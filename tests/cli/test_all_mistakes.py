"""Mistakes of every kind in a study file are told together, before an engine starts."""

import json
import time
from pathlib import Path

import pytest
import yaml
from support.study_files import simulated_study, write_study

LETTERS = {
    "dataset_path": "json",
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{q}}",
    "doc_to_choice": "choices",
    "doc_to_target": "label",
    "metric_list": [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "brier_score"},
        {"metric": "mcc", "aggregation": "matthews_corrcoef"},
    ],
}
SPELLING = {
    **LETTERS,
    "output_type": "generate_until",
    "doc_to_choice": None,
    "metric_list": [{"metric": "exact_match"}, {"metric": "bleu"}, {"metric": "ter"}],
}


@pytest.fixture
def tasks(here: Path) -> str:
    """A folder of two tasks of thirty items."""
    folder = here / "tasks"
    folder.mkdir()
    rows = [{"q": f"q{i}", "choices": ["a", "b"], "label": i % 2} for i in range(30)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = {"data_files": {"test": str(folder / "rows.jsonl")}}
    for name, keys in {"letters": LETTERS, "spelling": SPELLING}.items():
        plain = {k: v for k, v in keys.items() if v is not None}
        plain |= {"task": name, "dataset_kwargs": files}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(plain))
    return str(folder)


KNOBS = {"weight": {"low": 2, "high": 1}}
FILES = {
    "names and a range": (
        {
            "space": {"operator": "ties", "base": "base", "knobs": KNOBS},
            "tasks": {"t": {"task": "leters", "metric": "acuracy"}},
            "objectives": [{"name": "a", "measure": "tt"}],
            "constraints": [{"objective": "b", "at_least": 0.1}],
            "strategy": {"kind": "cma", "options": {"population": 5}},
        },
        [
            "space.knobs.weight: expected low below high",
            "tasks.t.task: no task 'leters'",
            "tasks.t.metric: unknown metric 't/acuracy'; did you mean 't/acc'?",
            "objectives.0.measure: unknown task 'tt'",
            "constraints.0.objective: unknown objective 'b'; known: a.",
            "strategy: cma has no option 'population'",
        ],
    ),
    "metrics that are no mean": (
        {
            "tasks": {
                "t": {"task": "letters", "metric": "brier_score"},
                "u": {"task": "spelling", "metric": "exact_match"},
            },
            "objectives": [
                {"name": "x", "measure": "t/mc"},
                {"name": "y", "measure": "u/bleu"},
                {"name": "z", "measure": "u/ter", "direction": "minimize"},
            ],
            "strategy": {"kind": "cma"},
            "sources": {"base": "nowhere", "math": "nowhere/either"},
        },
        [
            "tasks.t.metric: 'brier_score' of 'letters' is no mean over items",
            "use acc or mcc.",
            "objectives.0.measure: unknown metric 't/mc'; did you mean 't/mcc'?",
            "objectives.1.measure: 'bleu' of 'spelling' is no mean over items",
            "objectives.2.measure: 'ter' of 'spelling' is no mean over items",
            "use exact_match.",
            "strategy: cma takes one objective, got 3",
            "sources.base: expected a model",
            "sources.math: expected a model",
        ],
    ),
    "items": (
        {
            "tasks": {
                "t": {"task": "letters", "metric": "acc", "items": {"search": [99]}},
                "u": {
                    "task": "spelling",
                    "metric": "exact_match",
                    "gen_kwargs": {"temprature": 0.5},
                },
                "v": {"task": "letters", "metric": "acc", "num_fewshot": 2},
                "w": {"task": "letters", "items": {"search_split": "tset"}},
            },
            "objectives": [{"measure": "w/acc", "direction": "up"}],
            "budget": {"trials": 0},
            "engine": {"kind": "vlm"},
        },
        [
            "objectives.0.direction: expected 'maximize' or 'minimize', got 'up'",
            "budget.trials: expected a number above 0",
            "engine.kind: expected 'vllm', 'hf' or 'simulated', got 'vlm'",
            "tasks.t.items.search: '99' is neither an item id nor a position",
            "tasks.u: ",
            "temprature",
            "tasks.v.items: ",
            "few-shot example",
            "tasks.w: there is no split 'tset'",
        ],
    ),
    "engine": (
        {
            "tasks": {"t": {"task": "leters", "metric": "acc"}},
            "engine": {
                "kind": "vllm",
                "options": {"enforce_eagr": True, "dtype": "flaot16", "seed": "one"},
            },
        },
        [
            "tasks.t.task: no task 'leters'",
            "engine.options.enforce_eagr: vLLM has no such argument; did you mean",
            "engine.options.dtype: expected 'auto' or 'half'",
            "engine.options.seed: expected a whole number, got 'one'",
        ],
    ),
    "simulated": (
        {
            "tasks": {
                "t": {"task": "simulated", "metric": "acc", "options": {"itms": 3}},
                "u": {"task": "simulated", "metric": "ac", "options": {"items": 0}},
                "v": {"task": "simulated", "metrik": "acc", "options": {"items": 9}},
            },
            "objectives": [{"measure": "u/loss"}, {"measure": "v/acc"}],
            "constraints": [{"measure": "v/ac", "at_most": 1, "at_least": 0}],
            "strategy": {"kind": "nsga"},
            "sead": 3,
        },
        [
            "tasks.t.options.itms: no such option",
            "tasks.u.options.items: expected a whole number from 1 to 1000000, got 0",
            "tasks.v.metrik: unknown key; did you mean 'metric'?",
            "constraints.0: expected one of at_least",
            "strategy: unknown strategy 'nsga'; did you mean 'nsga",
            "sead: unknown key; did you mean 'seed'?",
        ],
    ),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("command", ["check", "check --no-dry-run", "run --in-process"])
def test_all_mistakes_are_told_in_one_round(
    call, here, models, tasks, name, command
) -> None:
    changes, told = FILES[name]
    changes = json.loads(json.dumps(changes))
    for task in changes["tasks"].values():
        if task["task"] != "simulated":
            task["include"] = tasks
    file = write_study(here / "bad.yaml", simulated_study(models, **changes))
    began = time.monotonic()
    word, *options = command.split()
    ended = call(word, file, *options)
    assert (ended.code, ended.out) == (2, "")
    for words in told:
        assert words in ended.err
    assert "Traceback" not in ended.err
    assert time.monotonic() - began < 60
    assert not (here / "evomerge.db").exists()


def test_what_follows_from_a_mistake_is_not_told(call, here, models) -> None:
    study = simulated_study(
        models,
        sources={"base": 3, "math": str(models / "math")},
        tasks={"t": {"task": "simulated", "metrics": "acc"}},
    )
    ended = call("check", write_study(here / "bad.yaml", study))
    lines = ended.err.strip().splitlines()
    assert len(lines) == 2, lines
    assert "sources.base: expected text, got 3" in lines[0]
    assert "tasks.t.metrics: unknown key; did you mean 'metric'?" in lines[1]


def test_a_file_without_mistakes_is_told_its_items(call, here, models, tasks) -> None:
    one = {"task": "letters", "include": tasks, "metric": "acc", "limit": 12}
    study = simulated_study(models, tasks={"one": one}, engine={"kind": "hf"})
    ended = call("check", write_study(here / "good.yaml", study), "--no-dry-run")
    assert ended.code == 0, ended.err
    assert "6 searched on, 6 held out" in ended.out
    assert "higher is better; one/acc" in ended.out


ROW = json.dumps({"q": "q1", "choices": ["a", "b"], "label": 0}) + "\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", ""),
        ("rows.jsonl", "\n \n\n"),
        ("rows.jsonl", "[]"),
        ("rows.jsonl", ROW + "{'q': 'not JSON'}\n"),
        ("rows.jsonl", ROW[:-20]),
        ("rows.json", ""),
        ("rows.csv", ""),
        ("rows.csv", "q,choices,label\n"),
        ("rows.parquet", ""),
        ("rows.parquet", "PAR1PAR1"),
    ],
)
def test_a_data_file_without_items_is_told_at_its_task(
    call, here, models, name, content
) -> None:
    folder = here / "own"
    folder.mkdir()
    (folder / name).write_text(content)
    kind = {"jsonl": "json"}.get(name.split(".")[1], name.split(".")[1])
    task = {k: v for k, v in LETTERS.items() if k != "metric_list"}
    task |= {"task": "own", "dataset_path": kind, "metric_list": [{"metric": "acc"}]}
    task["dataset_kwargs"] = {"data_files": {"test": str(folder / name)}}
    (folder / "own.yaml").write_text(yaml.safe_dump(task))
    tasks = {"own": {"task": "own", "include": str(folder), "metric": "acc"}}
    study = simulated_study(models, tasks=tasks, objectives=[{"measure": "own/acc"}])
    ended = call("check", write_study(here / "bad.yaml", study))
    assert ended.code == 2, ended
    assert "Traceback" not in ended.err
    assert "tasks.own" in ended.err
