"""Models of different tokenizers, searched under the union of their tokens."""

import json
from pathlib import Path

import pytest
from support.commands import Commands
from support.real_study import SUMS_TASK
from support.study_files import write_study
from support.vocabularies import add_tokens, permute

from evomerge.checkpoints import read_model
from evomerge.testing.models import tiny_model

pytestmark = pytest.mark.slow


def test_a_union_is_searched_resumed_and_exported(
    commands: Commands, tmp_path: Path
) -> None:
    for seed, name in enumerate(("base", "math", "ja")):
        tiny_model(tmp_path / name, n_layers=2, seed=seed)
    permute(tmp_path / "math")
    add_tokens(tmp_path / "ja", ["<tool>", "<call>"])
    (tmp_path / "sums.yaml").write_text(SUMS_TASK)
    rows = [
        {"q": f"{k}<tool>", "choices": [str(2 * k), str(3 * k + 1)], "answer": k % 2}
        for k in range(24)
    ]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    study = {
        "sources": {name: name for name in ("base", "math", "ja")},
        "vocabulary": "union",
        "space": {
            "operator": "task_arithmetic",
            "base": "base",
            "knobs": {"weight": "search"},
        },
        "tasks": {"sums": {"task": "sums", "include": ".", "metric": "acc"}},
        "strategy": {"kind": "random", "generation_size": 2},
        "engine": {"kind": "hf"},
        "workers": 1,
        "budget": {"trials": 2},
    }
    write_study(tmp_path / "union.yaml", study)
    commands.call(tmp_path, "run", "union.yaml", "--in-process")
    commands.call(tmp_path, "resume", "union", "--trials", 3, "--in-process")
    trials = json.loads(commands.call(tmp_path, "trials", "union", "--json"))
    assert [row["state"] for row in trials] == ["scored"] * 7
    commands.call(tmp_path, "export", "union", "out", "--trial", 4, "--no-score")
    merged = read_model(tmp_path / "out")
    assert merged.vocab_size == 290
    assert merged.tensors[merged.layout.embed].shape == (290, 32)
