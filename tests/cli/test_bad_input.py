"""What bad input gets: a message that names file and key, code 2, nothing lost."""

import json
import re
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.study_files import simulated_study, without_lines, write_study

from evomerge.errors import CheckpointError, SelfTestError, WorkerError
from evomerge.store.base import Owner
from evomerge.store.sql import open_store
from evomerge.testing.models import tiny_model

READING = ("check", "run")
Space = namedtuple("Space", "total used free")


@pytest.fixture
def assert_refused(call, here: Path):
    """Give a study to check and to run; both must refuse it alike."""

    def assert_refused(study: dict[str, Any], *told: str) -> str:
        file = write_study(here / "bad.yaml", study)
        for command, *words in (("check",), ("run", "--in-process")):
            ended = call(command, file, *words)
            assert ended.code == 2, (command, ended)
            assert "Traceback" not in ended.err
            assert ended.out == ""
            for word in told:
                assert word in without_lines(ended.err), (command, ended.err)
        return ended.err

    return assert_refused


@pytest.fixture
def own(models: Path, tmp_path: Path) -> Path:
    """A copy of the models that a test may spoil."""
    return shutil.copytree(models, tmp_path / "own")


def studies(folder: Path) -> list[str]:
    store = open_store(f"sqlite:///{folder / 'evomerge.db'}", create=False)
    try:
        return [stored.name for stored in store.studies()]
    finally:
        store.close()


def test_an_unknown_key_is_named_with_the_nearest_known_one(
    assert_refused, models
) -> None:
    study = simulated_study(models, strategi={"kind": "cma"})
    assert_refused(study, "bad.yaml: strategi:", "did you mean 'strategy'?")


def test_all_mistakes_of_a_file_are_told_at_once(assert_refused, models: Path) -> None:
    study = simulated_study(models, budget={"trails": 4, "trials": 0}, seed="one")
    study["sources"]["ja"] = "nowhere"
    assert_refused(study, "budget.trails", "budget.trials", "seed", "sources.ja")


def test_a_missing_source_is_named(assert_refused, models: Path) -> None:
    study = simulated_study(models)
    study["sources"]["math"] = str(models / "gone")
    assert_refused(study, "bad.yaml: sources.math", "gone", "does not exist")


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ({"hidden": 64, "n_layers": 2}, "hidden size 64"),
        ({"vocab": 300, "n_layers": 2}, "vocabulary size 300"),
        ({"n_layers": 3}, "number of layers 3"),
    ],
    ids=["shape", "vocabulary", "layers"],
)
def test_a_source_that_does_not_fit_is_refused_with_both_sizes(
    assert_refused, models: Path, tmp_path: Path, size: dict[str, int], told: str
) -> None:
    study = simulated_study(models)
    study["sources"]["math"] = str(tiny_model(tmp_path / "odd", **size))
    assert_refused(study, "bad.yaml: sources", "'math'", told)


def test_a_pickle_checkpoint_is_refused_with_the_reason(
    assert_refused, own: Path
) -> None:
    weights = own / "math" / "model.safetensors"
    torch.save(load_file(weights), own / "math" / "pytorch_model.bin")
    weights.unlink()
    assert_refused(
        simulated_study(own),
        "bad.yaml: sources.math",
        "pytorch_model.bin",
        "code",
    )


def test_a_truncated_file_is_named(assert_refused, own: Path) -> None:
    weights = own / "math" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert_refused(
        simulated_study(own), "sources.math", "model.safetensors", "truncated"
    )


def test_a_corrupt_header_is_named(assert_refused, own: Path) -> None:
    weights = own / "math" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[8:40] = b"\xff" * 32
    weights.write_bytes(content)
    assert_refused(simulated_study(own), "sources.math", "model.safetensors", "corrupt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_parent_with_nan_or_infinity_is_refused(
    assert_refused, own: Path, value
) -> None:
    file = own / "math" / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"][3] = value
    save_file(weights, file, metadata={"format": "pt"})
    assert_refused(
        simulated_study(own),
        "bad.yaml: sources.math (",
        "model.norm.weight",
        "NaN or infinity",
    )


def test_an_unknown_metric_is_told_with_those_there_are(
    assert_refused, models: Path
) -> None:
    study = simulated_study(models, objectives=[{"measure": "one/accuracy"}])
    assert_refused(study, "one/accuracy", "one/acc")


def test_a_study_that_found_no_worker_can_be_put_right(
    call, here: Path, models: Path
) -> None:
    wrong = simulated_study(models, objectives=[{"measure": "one/accuracy"}])
    write_study(here / "mine.yaml", wrong)
    assert call("run", "mine.yaml", "--in-process").code == 2
    write_study(here / "mine.yaml", simulated_study(models))
    assert call("check", "mine.yaml").code == 0
    assert call("run", "mine.yaml", "--in-process").code == 0
    rows = json.loads(call("trials", "mine", "--json").out)
    assert [row["state"] for row in rows] == ["scored"] * 10


def test_an_unknown_option_of_a_task_is_told(assert_refused, models: Path) -> None:
    tasks = {"one": {"task": "simulated", "metric": "acc", "options": {"item": 3}}}
    assert_refused(
        simulated_study(models, tasks=tasks), "item", "did you mean 'items'?"
    )


def test_items_that_are_both_searched_and_reported_are_refused(
    assert_refused, models: Path
) -> None:
    study = simulated_study(models)
    study["tasks"]["one"]["items"] = {"search": [0, 1, 2], "report": [2, 3]}
    assert_refused(study, "bad.yaml: tasks.one.items", "2 in both")


@pytest.mark.parametrize(
    "budget", [{"trials": 0}, {"items": 0}, {"hours": 0}, {"trials": -3}, {}]
)
def test_a_budget_of_nothing_is_refused(assert_refused, models: Path, budget) -> None:
    assert_refused(simulated_study(models, budget=budget), "bad.yaml: budget")


def test_a_refused_study_is_not_in_the_database(
    assert_refused, models: Path, here
) -> None:
    assert_refused(simulated_study(models, budget={"trials": 0}))
    assert not (here / "evomerge.db").exists()


@pytest.mark.parametrize(
    "text",
    ["", "[1, 2", "- a\n- b\n", "a: !!python/object/apply:os.system [ls]\n", "\x00"],
    ids=["empty", "broken", "list", "python object", "binary"],
)
def test_a_file_that_is_no_study_is_named(call, here: Path, text: str) -> None:
    (here / "bad.yaml").write_text(text)
    for command in READING:
        ended = call(command, "bad.yaml")
        assert ended.code == 2
        assert "bad.yaml" in ended.err
        assert "Traceback" not in ended.err


@pytest.mark.parametrize("command", [*READING, "merge"])
def test_a_file_that_is_missing_or_a_folder_is_named(call, here: Path, command) -> None:
    (here / "folder").mkdir()
    out = ("out",) if command == "merge" else ()
    for name in ("gone.yaml", "folder"):
        ended = call(command, name, *out)
        assert ended.code == 2
        assert name in ended.err
        assert "Traceback" not in ended.err


def test_another_configuration_under_a_taken_name_is_refused_with_a_diff(
    call, done: Path, models: Path
) -> None:
    before = call("trials", "mine", "--json").out
    other = simulated_study(models, seed=9)
    other["space"]["knobs"]["weight"] = {"low": 0.0, "high": 1.5}
    write_study(done / "mine.yaml", other)
    for words in (("check", "mine.yaml"), ("run", "mine.yaml", "--in-process")):
        ended = call(*words)
        assert ended.code == 2
        assert "recorded -> now" in ended.err
        assert "seed" in ended.err
        assert "1.5" in ended.err
        assert "evomerge resume mine" in ended.err
    assert call("trials", "mine", "--json").out == before


def test_more_trials_or_workers_are_no_other_configuration(
    call, done: Path, models: Path
) -> None:
    study = simulated_study(models, budget={"trials": 7}, workers=2)
    write_study(done / "mine.yaml", study)
    assert call("run", "mine.yaml", "--in-process").code == 0
    rows = json.loads(call("trials", "mine", "--json").out)
    assert len(rows) == 11


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CheckpointError("shard 1 is corrupt"), 2),
        (SelfTestError("the engine answers as before the swap"), 2),
        (WorkerError("the device is busy"), 75),
        (OSError(28, "No space left on device"), 75),
    ],
)
def test_workers_that_cannot_start_say_whether_to_try_again(
    call, here: Path, models: Path, monkeypatch: pytest.MonkeyPatch, error, code
) -> None:
    def fail(setup: object) -> None:
        raise error

    monkeypatch.setattr("evomerge.api.running.Evaluator", fail)
    write_study(here / "mine.yaml", simulated_study(models))
    ended = call("run", "mine.yaml", "--in-process")
    assert ended.code == code
    assert "Error: The worker could not start: " in ended.err
    assert str(error) in ended.err


def test_a_study_that_another_coordinator_holds_is_refused(call, done: Path) -> None:
    store = open_store("sqlite:///evomerge.db", create=False)
    try:
        lease = store.lease(
            store.study("mine").id, Owner("another-host", 4711, "99"), 60.0
        )
        ended = call("resume", "mine", "--trials", "9", "--in-process")
        assert ended.code == 75
        assert "4711 on another-host" in ended.err
        assert "Traceback" not in ended.err
        assert call("status", "mine").code == 0
        store.release(lease)
    finally:
        store.close()
    assert call("resume", "mine", "--trials", "9", "--in-process").code == 0


def test_no_space_for_an_export_is_told_and_nothing_is_left(
    call, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Space(100, 90, 10))
    before = {file.name for file in done.iterdir()}
    ended = call("export", "mine", "best", "--no-score")
    assert ended.code == 2
    assert "No disk space for best" in ended.err
    assert {file.name for file in done.iterdir()} == before


def test_export_of_a_trial_that_is_not_there_is_told(call, done: Path) -> None:
    ended = call("export", "mine", "best", "--trial", "99")
    assert ended.code == 2
    assert "99" in ended.err
    assert not (done / "best").exists()


def test_a_source_that_changed_since_the_search_is_refused(
    call, here: Path, own: Path
) -> None:
    write_study(here / "mine.yaml", simulated_study(own))
    assert call("run", "mine.yaml", "--in-process").code == 0
    shutil.rmtree(own / "math")
    tiny_model(own / "math", seed=77, n_layers=2)
    for words in (
        ("resume", "mine", "--trials", "9", "--in-process"),
        ("export", "mine", "best"),
    ):
        ended = call(*words)
        assert ended.code == 2
        assert "math" in ended.err
        assert "Traceback" not in ended.err
    assert not (here / "best").exists()
    shutil.rmtree(own)
    ended = call("export", "mine", "best")
    assert ended.code == 2
    assert str(own) in ended.err
    assert studies(here) == ["mine"]


def test_a_damaged_database_is_refused_and_left_as_it_is(call, here: Path) -> None:
    (here / "evomerge.db").write_bytes(b"this is no database" * 100)
    before = (here / "evomerge.db").read_bytes()
    for command in ("status", "resume", "export"):
        ended = call(command, "mine", *(("out",) if command == "export" else ()))
        assert ended.code == 2
        assert "evomerge.db" in ended.err
        assert "Traceback" not in ended.err
    assert (here / "evomerge.db").read_bytes() == before


def test_candidates_whose_evaluation_fails_are_recorded_and_the_search_goes_on(
    call, here: Path, models: Path
) -> None:
    study = simulated_study(models, budget={"trials": 20})
    study["tasks"]["one"]["options"] = {"items": 20, "fail_if": 0.3}
    write_study(here / "some.yaml", study)
    ended = call("run", "some.yaml", "--in-process")
    assert ended.code == 0
    rows = json.loads(call("trials", "some", "--json").out)
    assert {row["state"] for row in rows} == {"scored", "failed"}
    failed = [row for row in rows if row["state"] == "failed"]
    assert all("not finite (simulated)" in row["failure"] for row in failed)
    assert all(row["scores"] == {} for row in failed)
    assert len(rows) == 24
    status = call("status", "some").out
    assert re.search(rf"not scored: not finite +{len(failed)}\n", status)
    number = failed[0]["number"]
    ended = call("export", "some", "out", "--trial", number)
    assert ended.code == 2
    assert "not scored" in ended.err


def test_candidates_that_take_too_long_are_recorded_and_the_search_goes_on(
    call, here: Path, models: Path
) -> None:
    study = simulated_study(models, budget={"trials": 2}, timeout_s=0.001)
    study["tasks"]["one"]["options"] = {"items": 20, "sleep_s": 0.01}
    study["strategy"]["generation_size"] = 2
    write_study(here / "slow.yaml", study)
    assert call("run", "slow.yaml", "--in-process").code == 0
    rows = json.loads(call("trials", "slow", "--json").out)
    assert len(rows) == 6
    assert {row["state"] for row in rows} == {"failed"}
    assert {row["attempt"] for row in rows} == {2}
    assert all(row["failure"].startswith("timed out") for row in rows)
    assert call("front", "slow").code == 0
    assert "no feasible scored trial" in call("export", "slow", "out").err


def test_a_machine_that_fails_for_some_candidates_is_tried_again(
    call, here: Path, models: Path
) -> None:
    study = simulated_study(models, budget={"trials": 8})
    study["tasks"]["one"]["options"] = {
        "items": 20,
        "break_if": 0.5,
        "fault_times": 1,
    }
    write_study(here / "flaky.yaml", study)
    assert call("run", "flaky.yaml", "--in-process").code == 0
    rows = json.loads(call("trials", "flaky", "--json").out)
    assert {row["state"] for row in rows} == {"scored"}
    assert {row["attempt"] for row in rows} == {1, 2}


def test_in_process_and_an_address_do_not_go_together(call, done: Path) -> None:
    words = ("--in-process", "--address", "127.0.0.1:6379")
    ended = call("resume", "mine", *words)
    assert ended.code == 2
    assert "--in-process" in ended.err


@pytest.mark.slow
def test_candidates_with_weights_beyond_all_bounds_are_recorded(
    call, here: Path, models: Path
) -> None:
    space = {
        "operator": "linear",
        "knobs": {"weight": {"low": 0.0, "high": 1e40}, "normalize": False},
    }
    # The first has a weight that fp32 holds, but not the sum of three.
    start = [
        {"name": "sum", "knobs": {"weight": 3e38}},
        {"name": "factor", "knobs": {"weight": 9e39}},
    ]
    study = simulated_study(
        models,
        space=space,
        start=start,
        engine={"kind": "hf"},
        budget={"trials": 1},
    )
    write_study(here / "huge.yaml", study)
    ended = call("run", "huge.yaml", "--in-process")
    assert ended.code == 0, ended.err
    rows = json.loads(call("trials", "huge", "--json").out)
    by_label = {row["label"]: row for row in rows}
    assert by_label["uniform"]["state"] == "scored"
    for label, told in (("sum", "not finite"), ("factor", "too large for float32")):
        row = by_label[label]
        assert (row["state"], row["attempt"]) == ("failed", 1)
        assert told in row["failure"]
        assert "candidate's fault" in row["failure"]
    assert len(rows) == 7
    assert "\n                " not in call("trials", "huge").out


@pytest.mark.parametrize(
    "said", ["no_such_activation", "SiLU ", "", 5, True, ["silu"], {"name": "silu"}]
)
def test_an_activation_that_nobody_knows_is_told(call, here, own, said) -> None:
    for name in ("base", "math"):
        config = own / name / "config.json"
        text = config.read_text()
        config.write_text(json.dumps(json.loads(text) | {"hidden_act": said}))
    study = simulated_study(own, engine={"kind": "hf", "dtype": "float32"})
    ended = call("check", write_study(here / "bad.yaml", study))
    assert ended.code == 2, ended
    assert "Traceback" not in ended.err
    assert "hidden_act" in ended.err
