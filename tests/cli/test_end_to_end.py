"""From nothing to an exported model: real weights, lm-eval tasks, SQLite."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from support.study_files import leave_quantization_behind, write_study

from evomerge import api


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest zoo, trained once."""
    folder = tmp_path_factory.mktemp("zoo") / "zoo"
    assert api.zoo(folder, recipe="TINY", seed=1).built
    return folder


def study_of(zoo: Path, **changes: Any) -> dict[str, Any]:
    tasks = str(zoo / "tasks")
    study = {
        "name": "real",
        "sources": {name: str(zoo / name) for name in ("base", "math", "sort")},
        "space": {
            "operator": "task_arithmetic",
            "base": "base",
            "knobs": {"weight": {"low": 0.0, "high": 1.5, "by": {"groups": 2}}},
        },
        "tasks": {
            "choice": {"task": "en_sort3_mc", "include": tasks, "metric": "acc"},
            "answer": {
                "task": "en_sort5",
                "include": tasks,
                "metric": "exact_match",
                "max_gen_toks": 4,
            },
        },
        "items": {"limit": 24, "blocks": 4},
        "objectives": [
            {"name": "score", "mean_of": ["choice", "answer"], "worst": 0.5}
        ],
        "strategy": {"kind": "cma", "generation_size": 4},
        "engine": {"kind": "hf", "max_model_len": 64},
        "workers": 1,
        "budget": {"trials": 8},
    }
    return {**study, **changes}


def answer(folder: Path) -> torch.Tensor:
    """Log-probabilities of a plain transformers model after a short prompt."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return model(**tokenizer("sort312?", return_tensors="pt")).logits


def export_and_merge(call: Any, here: Path, zoo: Path, wanted: str) -> None:
    """Export a study's best; the folder loads, and its recipe merges to the same."""
    ended = call("export", "real", "best")
    assert ended.code == 0, ended.err
    assert f"score on {wanted} held-out items" in ended.out
    card = (here / "best" / "README.md").read_text(encoding="utf-8")
    for told in ("base", "math", "sort", "held-out", "real"):
        assert told in card
    recipe = json.loads((here / "best" / "recipe.json").read_text())
    recipe["paths"] = {name: str(zoo / name) for name in recipe["inputs"]}
    write_study(here / "recipe.yaml", recipe)
    assert call("merge", "recipe.yaml", "merged").code == 0
    weights = [
        (here / name / "model.safetensors").read_bytes() for name in ("best", "merged")
    ]
    assert weights[0] == weights[1]
    logits = answer(here / "best")
    assert bool(torch.isfinite(logits).all())
    assert torch.equal(logits, answer(here / "merged"))


@pytest.mark.slow
def test_a_search_over_real_models_ends_in_a_folder_that_transformers_loads(
    call, here: Path, zoo: Path
) -> None:
    write_study(here / "real.yaml", study_of(zoo))
    found = json.loads(call("check", "real.yaml", "--json").out)
    assert found["items"] == {"choice": [12, 12], "answer": [12, 12]}
    assert found["trial_s"] > 0
    ended = call("run", "real.yaml", "--in-process")
    assert ended.code == 0, ended.err
    rows = json.loads(call("trials", "real", "--json").out)
    assert [row["state"] for row in rows] == ["scored"] * 12
    assert {row["recipe"] for row in rows if row["label"]} != set()
    assert all(row["seconds"]["swap"] > 0 for row in rows if not row["reused"])
    front = json.loads(call("front", "real", "--json").out)
    best = max(row["values"]["score"] for row in rows)
    assert front[0]["values"]["score"] == best
    export_and_merge(call, here, zoo, "24")
    line = json.loads(
        call("export", "real", "best", "--replace", "--no-score", "--json").out
    )["command"]
    loaded = subprocess.run(
        line, shell=True, capture_output=True, text=True, cwd=here, check=True
    )
    assert loaded.stdout.startswith("27 plus 48?")


@pytest.mark.slow
def test_unknown_tasks_and_metrics_are_found_by_the_dry_run_and_by_the_search(
    call, here: Path, zoo: Path
) -> None:
    tasks = str(zoo / "tasks")
    for tasks_of, told in (
        ({"a": {"task": "en_sort", "include": tasks, "metric": "acc"}}, "en_sort5"),
        ({"a": {"task": "en_sort5", "include": tasks, "metric": "acc"}}, "exact_match"),
    ):
        study = study_of(zoo, tasks=tasks_of, objectives=[])
        write_study(here / "real.yaml", study)
        for words in (("check",), ("run", "--in-process")):
            ended = call(words[0], "real.yaml", *words[1:])
            assert ended.code == 2
            assert told in ended.err
            assert "Traceback" not in ended.err
    # Put right, it starts: a study that found no worker does not occupy its name.
    study = study_of(zoo, strategy={"kind": "random"}, budget={"trials": 1})
    write_study(here / "real.yaml", study)
    ended = call("run", "real.yaml", "--in-process")
    assert ended.code == 0, ended.err


@pytest.mark.engine
@pytest.mark.timeout(300)
def test_vllm_in_this_process_searches_and_exports(call, here: Path, zoo: Path) -> None:
    zoo = shutil.copytree(zoo, here / "zoo")
    for name in ("base", "math", "sort"):
        leave_quantization_behind(zoo / name)
    engine = {"kind": "vllm", "max_model_len": 64, "max_num_seqs": 16}
    write_study(here / "real.yaml", study_of(zoo, engine=engine, budget={"trials": 4}))
    ended = call("run", "real.yaml", "--in-process")
    assert ended.code == 0, ended.err
    rows = json.loads(call("trials", "real", "--json").out)
    assert [row["state"] for row in rows] == ["scored"] * 8
    export_and_merge(call, here, zoo, "24")


@pytest.mark.engine
@pytest.mark.timeout(300)
def test_doctor_proves_the_swap_of_vllm_and_times_it(call, zoo: Path) -> None:
    words = ("--engine", zoo / "base", "--probe", zoo / "math", "--json")
    ended = call("doctor", *words)
    assert ended.code == 0, ended.out
    found = {row["name"]: row for row in json.loads(ended.out)}
    proof = found[f"engine vllm on {zoo / 'base'}"]
    assert proof["value"].endswith("0 apart, 0 on return")
    assert found["swap"]["value"].endswith(" ms")


@pytest.mark.slow
def test_doctor_proves_the_swap_of_hf_without_a_probe_of_the_users(
    call, zoo: Path
) -> None:
    found = json.loads(
        call("doctor", "--engine", zoo / "base", "--kind", "hf", "--json").out
    )
    by_name = {row["name"]: row for row in found}
    assert by_name[f"engine hf on {zoo / 'base'}"]["verdict"] == "ok"
    assert by_name["swap"]["value"].endswith(" ms")


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_on_ray_hung_candidates_are_killed_recorded_and_the_search_goes_on(
    call, here: Path, zoo: Path
) -> None:
    options = {"items": 20, "hang_if": 0.3}
    study = study_of(
        zoo,
        tasks={"a": {"task": "simulated", "metric": "acc", "options": options}},
        objectives=[],
        engine={"kind": "simulated"},
        strategy={"kind": "random", "generation_size": 4},
        workers=2,
        timeout_s=2.0,
    )
    write_study(here / "real.yaml", study)
    ended = call("run", "real.yaml")
    assert ended.code == 0, ended.err
    rows = json.loads(call("trials", "real", "--json").out)
    assert len(rows) == 12
    assert {row["state"] for row in rows} == {"scored", "failed"}
    for row in rows:
        if row["state"] == "failed":
            assert row["attempt"] == 2
            assert row["failure"].startswith("timed out (candidate's fault)")


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_ctrl_c_of_a_search_on_ray_stops_its_workers_and_is_resumed(
    call, here: Path, zoo: Path
) -> None:
    options = {"items": 20, "sleep_s": 0.3}
    study = study_of(
        zoo,
        tasks={"a": {"task": "simulated", "metric": "acc", "options": options}},
        objectives=[],
        engine={"kind": "simulated"},
        workers=2,
    )
    write_study(here / "real.yaml", study)
    main = "from evomerge.cli.app import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", main, "run", "real.yaml"],
        cwd=here,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 150
    while "scored" not in call("trials", "real").out:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "evomerge resume real" in err
    assert call("resume", "real", "--in-process").code == 0
    rows = json.loads(call("trials", "real", "--json").out)
    assert [row["state"] for row in rows] == ["scored"] * 12
