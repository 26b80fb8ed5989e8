"""A study from file to tables: check, run, resume, status, front, trials, export."""

import csv
import json
import sqlite3
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from support.study_files import simulated_study, write_study

from evomerge.core.work import NODE_SET_ASIDE, ROSTER, Roster
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store

TWO = [
    {"name": "one", "measure": "one/acc"},
    {"name": "two", "measure": "two/acc"},
]


@pytest.fixture
def study(here: Path, models: Path) -> Path:
    return write_study(here / "mine.yaml", simulated_study(models))


def lines(table: str) -> dict[str, str]:
    """First word of each line to the rest."""
    split = [line.split(maxsplit=1) for line in table.splitlines() if line.strip()]
    return {words[0]: words[-1] for words in split}


def test_check_tells_items_trials_and_cost(call, study: Path) -> None:
    ended = call("check", study)
    assert ended.code == 0
    assert "mine.yaml: no mistakes found" in ended.out
    for told in ("sources", "time per trial", "time in all", "disk", "memory per"):
        assert told in ended.out
    found = json.loads(call("check", study, "--json").out)
    assert found["sources"] == ["base", "ja", "math"]
    assert sum(found["items"]["one"]) == 20
    assert found["trials"] == 6
    assert found["baselines"] == 4
    assert found["trial_s"] >= 0
    assert found["memory_bytes"] > 2**20
    assert "differences" in found["differences"]
    assert found["differences"] in ended.out


def test_check_leaves_no_study_behind(call, study: Path, here: Path) -> None:
    assert call("check", study).code == 0
    assert not (here / "evomerge.db").exists()


def test_check_without_a_dry_run_starts_no_engine(call, study: Path) -> None:
    found = json.loads(call("check", study, "--no-dry-run", "--json").out)
    assert found["trial_s"] is None
    assert found["items"] == {"one": [11, 9], "two": [5, 15]}


def test_run_ends_with_the_best_and_tells_what_it_used(call, study: Path) -> None:
    ended = call("run", study, "--in-process")
    assert ended.code == 0
    assert "mine: trial budget used; 6 trials" in ended.out
    assert "evomerge front mine" in ended.out
    assert "generation 2 | 3 of 6 trials | best score" in ended.err


def test_run_gives_json_that_equals_what_status_says(call, study: Path) -> None:
    report = json.loads(call("run", study, "--in-process", "--json").out)
    status = json.loads(call("status", "mine", "--json").out)
    assert report["reason"] == status["state"] == "trial budget used"
    for key in ("trials", "items", "seconds", "front_size", "best"):
        assert report[key] == status[key]
    assert status["trials"] == 6
    assert status["counts"] == {
        "pending": 0,
        "running": 0,
        "scored": 10,
        "failed": 0,
        "quarantined": 0,
    }


def test_trials_json_has_what_a_program_needs(call, done: Path) -> None:
    rows = json.loads(call("trials", "mine", "--json").out)
    assert [row["number"] for row in rows] == list(range(10))
    assert [row["generation"] for row in rows] == [0] * 4 + [1] * 3 + [2] * 3
    assert [row["label"] for row in rows[:4]] == ["base", "ja", "math", "uniform"]
    for row in rows:
        assert row["state"] == "scored"
        assert row["attempt"] == 1
        assert len(row["recipe"]) == 32
        assert set(row["scores"]) >= {"one/acc", "two/acc"}
        mean = (row["scores"]["one/acc"] + row["scores"]["two/acc"]) / 2
        assert row["values"]["score"] == pytest.approx(mean)
    assert rows[0]["point"] is None
    assert set(rows[4]["point"]) == {"weight.math", "weight.ja"}


def test_tables_name_every_trial_and_the_front(call, done: Path) -> None:
    trials = lines(call("trials", "mine").out)
    assert [word for word in trials if word.isdecimal()] == list(map(str, range(10)))
    assert trials["0"].endswith("base")
    front = lines(call("front", "mine").out)
    (best,) = json.loads(call("front", "mine", "--json").out)
    assert str(best["number"]) in front
    status = call("status", "mine").out
    assert f"(trial {best['number']}; higher is better)" in status
    assert not [line for line in status.splitlines() if line != line.rstrip()]


def test_a_table_that_is_no_terminal_breaks_no_line(
    call, here: Path, models: Path
) -> None:
    label = "a merge with quite a long name " + 40 * "x"
    start = [{"name": label, "knobs": {"weight": 0.5}}]
    write_study(here / "long.yaml", simulated_study(models, start=start))
    assert call("run", "long.yaml", "--in-process").code == 0
    assert label in call("trials", "long").out


def test_retries_and_causes_are_told_in_words_and_whole_as_json(
    call, here: Path, models: Path
) -> None:
    study = simulated_study(models, name="worn", budget={"trials": 4})
    study["tasks"]["one"]["options"] = {"items": 20, "memory_if": 1.0}
    study["tasks"]["two"]["options"] = {"items": 20}
    write_study(here / "worn.yaml", study)
    assert call("run", "worn.yaml", "--in-process").code == 0
    rows = json.loads(call("trials", "worn", "--json").out)
    assert {(row["state"], row["attempt"]) for row in rows} == {("quarantined", 3)}
    for row in rows:
        first, *trace = row["failure"].splitlines()
        assert first.startswith("out of memory (machine's fault): MemoryError: Out of")
        assert "Traceback (most recent call last):" in trace
    table = call("trials", "worn").out
    assert "Traceback" not in table
    assert table.splitlines()[1].split()[:5] == [
        *("trial", "gen", "state", "attempt", "faults")
    ]
    for line in table.splitlines()[2:]:
        assert "out of memory (machine's fault): MemoryError" in line
        assert line.endswith("…")
    status = call("status", "worn").out
    assert "not scored: out of memory" in status


def test_a_front_of_two_objectives_holds_only_what_nothing_dominates(
    call, here: Path, models: Path
) -> None:
    strategy = {"kind": "nsga2", "generation_size": 4}
    study = simulated_study(models, objectives=TWO, strategy=strategy)
    write_study(here / "two.yaml", study)
    assert call("run", "two.yaml", "--in-process").code == 0
    rows = json.loads(call("trials", "two", "--json").out)
    front = json.loads(call("front", "two", "--json").out)
    points = [tuple(row["values"].values()) for row in rows]

    def is_dominated(point: tuple[float, ...]) -> bool:
        return any(
            other != point and all(o >= p for o, p in zip(other, point, strict=True))
            for other in points
        )

    numbers = {row["number"] for row in rows if not is_dominated(points[row["number"]])}
    assert {row["number"] for row in front} <= numbers
    assert {tuple(row["values"].values()) for row in front} == {
        points[number] for number in numbers
    }


def test_equal_scores_of_a_front_have_one_line(call, done: Path) -> None:
    with sqlite3.connect(done / "evomerge.db") as connection:
        connection.execute("UPDATE em_trial SET scores = (SELECT scores FROM em_trial)")
    shown = call("front", "mine").out.splitlines()
    assert len(shown) == 3
    assert shown[2].endswith("1, 2, 3, 4, 5, 6, 7, 8, and 1 more")
    assert len(json.loads(call("front", "mine", "--json").out)) == 10


def test_trials_are_chosen_and_put_in_order(call, done: Path) -> None:
    def rows(*words: object) -> list[dict[str, Any]]:
        found = json.loads(call("trials", "mine", "--json", *words).out)
        assert isinstance(found, list)
        return found

    best = rows("--sort", "score", "--top", 4)
    values = [row["values"]["score"] for row in rows()]
    assert [row["values"]["score"] for row in best] == sorted(values)[:-5:-1]
    assert rows("--state", "failed") == []
    assert rows("--state", "scored", "--feasible") == rows()
    assert {row["feasible"] for row in rows()} == {True}
    assert rows("--sort", "generation") == rows()
    (point,) = (row["point"] for row in rows("--sort", "number", "--top", 5)[4:])
    shown = call("trials", "mine", "--points").out
    assert all(f"{axis}={value}" in shown for axis, value in point.items())


def test_an_order_that_is_none_is_refused_with_those_there_are(
    call, done: Path
) -> None:
    said = call("trials", "mine", "--sort", "scor")
    assert said.code == 2
    assert "score, number, generation" in said.err
    assert "did you mean 'score'?" in said.err


def test_trials_as_csv_have_a_column_for_everything(call, done: Path) -> None:
    for command in ("trials", "front"):
        rows = json.loads(call(command, "mine", "--json").out)
        table = list(csv.DictReader(call(command, "mine", "--csv").out.splitlines()))
        assert [int(row["number"]) for row in table] == [row["number"] for row in rows]
        for row, line in zip(rows, table, strict=True):
            for axis, value in (row["point"] or {}).items():
                assert float(line[f"point.{axis}"]) == value
            for name, value in {**row["values"], **row["scores"]}.items():
                assert float(line[name]) == value


def test_check_tells_what_the_held_out_items_can_show(call, study: Path) -> None:
    found = json.loads(call("check", study, "--no-dry-run", "--json").out)
    n_items = sum(report for _, report in found["items"].values())
    assert n_items < 40
    (said,) = found["shown"].values()
    assert "differences from 0." in said
    assert f"{found['baselines']} comparisons sharing 5 % error" in said
    assert "can show" in call("check", study, "--no-dry-run").out


@pytest.mark.parametrize("command", ["trials", "front"])
def test_two_forms_at_once_are_refused(call, done: Path, command: str) -> None:
    said = call(command, "mine", "--csv", "--json")
    assert (said.code, said.out) == (2, "")
    assert "Expected --csv or --json, got both." in said.err


def test_show_tells_all_of_a_trial(call, done: Path) -> None:
    rows = json.loads(call("trials", "mine", "--json").out)
    found = json.loads(call("show", "mine", "--trial", 5, "--json").out)
    assert found["trial"] == rows[5]
    assert found["n_items"] == 16
    for measure in found["measures"]:
        name = measure["measure"]
        assert measure["value"] == pytest.approx(rows[5]["scores"][name])
        assert measure["low"] <= measure["value"] <= measure["high"]
    assert {m["measure"] for m in found["measures"]} >= {"one/acc", "two/acc"}
    (attempt,) = found["attempts"]
    assert attempt["end"] == "scored"
    assert found["recipe"]["frame"] == "base"
    assert "models:" in found["mergekit"] or "slices:" in found["mergekit"]
    shown = call("show", "mine", "--trial", 5, "--whole").out
    for words in (*rows[5]["point"], "95 %", "as mergekit", "weight", "one/acc"):
        assert words in shown
    (done / "recipe.yml").write_text(found["mergekit"])
    again = json.loads(call("recipe", "recipe.yml", "--to", "canonical", "--json").out)
    assert again["digest"] == rows[5]["recipe"]


def test_show_goes_without_what_is_gone(call, done: Path) -> None:
    with sqlite3.connect(done / "evomerge.db") as connection:
        (text,) = connection.execute("SELECT allowance FROM em_study").fetchone()
        gone = text.replace("models", "no-models")
        connection.execute("UPDATE em_study SET allowance = ?", (gone,))
    ended = call("show", "mine", "--trial", 5, "--whole")
    assert ended.code == 0
    assert "mergekit: " in ended.out
    assert "no-models" in ended.out
    said = call("show", "mine", "--trial", 99)
    assert said.code == 2
    assert "99" in said.err


def test_run_of_a_finished_study_adds_nothing(call, done: Path) -> None:
    before = call("trials", "mine", "--json").out
    ended = call("run", "mine.yaml", "--in-process")
    assert ended.code == 0
    assert call("trials", "mine", "--json").out == before


def test_resume_with_more_trials_equals_a_study_that_had_them_from_the_start(
    call, done: Path, models: Path
) -> None:
    assert call("resume", "mine", "--trials", "11", "--in-process").code == 0
    longer = simulated_study(models, name="mine", budget={"trials": 11})
    write_study(done / "longer.yaml", longer)
    other = ("--db", "sqlite:///other.db")
    assert call("run", "longer.yaml", "--in-process", *other).code == 0

    def decided(*words: str) -> list[object]:
        rows = json.loads(call("trials", "mine", "--json", *words).out)
        kept = ("number", "generation", "state", "recipe", "point", "scores")
        return [{key: row[key] for key in kept} for row in rows]

    assert len(decided()) == 15
    assert decided() == decided(*other)


def test_resume_with_an_item_budget_stops_within_it(call, done: Path) -> None:
    used = json.loads(call("status", "mine", "--json").out)["items"]
    words = ("--trials", "100", "--items", used + 1, "--in-process", "--json")
    report = json.loads(call("resume", "mine", *words).out)
    assert report["reason"] == "item budget used"
    assert 6 < report["trials"] < 100


def test_duplicates_reuse_what_another_study_scored(
    call, done: Path, models: Path
) -> None:
    write_study(done / "again.yaml", simulated_study(models))
    assert call("run", "again.yaml", "--in-process").code == 0
    rows = json.loads(call("trials", "again", "--json").out)
    assert all(row["reused"] for row in rows)


def test_export_writes_a_model_that_lists_the_baselines(call, done: Path) -> None:
    ended = call("export", "mine", "best")
    assert ended.code == 0
    for told in (
        "held-out items (95 % intervals)",
        "the export",
        "uniform",
        "opened 1",
    ):
        assert told in ended.out
    names = {file.name for file in (done / "best").iterdir()}
    assert {"README.md", "recipe.json", "config.json", "model.safetensors"} <= names
    best = json.loads(call("front", "mine", "--json").out)[0]
    assert f"Trial {best['number']} of mine is in best" in ended.out
    again = json.loads(
        call("export", "mine", "best", "--replace", "--trial", "5", "--json").out
    )
    assert again["trial"] == 5
    assert again["openings"] == 2
    status = json.loads(call("status", "mine", "--json").out)
    assert status["openings"] == 2


def test_export_without_scoring_opens_nothing(call, done: Path) -> None:
    found = json.loads(call("export", "mine", "best", "--no-score", "--json").out)
    assert found["rivals"] == []
    assert json.loads(call("status", "mine", "--json").out)["openings"] == 0


def test_a_taken_folder_is_refused_before_held_out_items_are_opened(
    call, done: Path
) -> None:
    (done / "taken").mkdir()
    for words in ((), ("--replace",)):
        ended = call("export", "mine", "taken", *words)
        assert ended.code == 2
        assert "taken" in ended.err
    assert json.loads(call("status", "mine", "--json").out)["openings"] == 0


def test_merge_of_an_exported_recipe_gives_the_same_weights(
    call, done: Path, models: Path
) -> None:
    assert call("export", "mine", "best", "--no-score").code == 0
    recipe = json.loads((done / "best" / "recipe.json").read_text())
    recipe["paths"] = {name: str(models / name) for name in recipe["inputs"]}
    (done / "recipe.yaml").write_text(json.dumps(recipe))
    ended = call("merge", "recipe.yaml", "merged")
    assert ended.code == 0
    assert "1 file" in ended.out
    weights = [done / name / "model.safetensors" for name in ("best", "merged")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_merge_of_a_short_recipe_writes_shards_of_the_size_asked(
    call, here: Path, models: Path
) -> None:
    recipe = {
        "sources": {name: str(models / name) for name in ("math", "ja")},
        "operator": "linear",
        "knobs": {"weight": {"math": 0.7, "ja": 0.3}},
    }
    write_study(here / "recipe.yaml", recipe)
    ended = call("merge", "recipe.yaml", "merged", "--shard-gb", "0.00005")
    assert ended.code == 0
    shards = list((here / "merged").glob("model-*.safetensors"))
    assert f"{len(shards)} files" in ended.out
    assert len(shards) > 1


def test_doctor_names_libraries_and_the_database(call, done: Path) -> None:
    found = json.loads(call("doctor", "--json").out)
    by_name = {row["name"]: row for row in found}
    assert by_name["database"]["value"].endswith("1 study")
    assert by_name["torch"]["verdict"] == "ok"
    assert "python" in call("doctor").out


def test_status_tells_who_works_for_a_study_and_which_nodes_do_not(
    call, done: Path
) -> None:
    node = {"id": "n1", "host": "box", "ip": "10.0.0.7", "reason": "it has no models."}
    store = open_store(f"sqlite:///{done}/evomerge.db")
    found = store.study("mine").id
    store.add_event(found, NODE_SET_ASIDE, {**node, "host": "of a run before"})
    store.add_event(found, NODE_SET_ASIDE, node)
    store.add_event(found, ROSTER, asdict(Roster(4, 3, "a GPU", 1)))
    before = json.loads(call("status", "mine", "--json").out)
    assert (before["workers"], before["aside"]) == (None, [])  # nobody searches
    lease = store.lease(found, this_process(), 60)
    said = call("status", "mine").out
    assert "3 of 4 workers, waiting for a GPU, 1 node set aside" in said
    assert "box (10.0.0.7): it has no models." in said
    assert "of a run before" not in said
    store.release(lease)
    store.close()


def test_a_sampled_study_marks_what_its_scores_are_over(
    call, here: Path, models: Path, tmp_path: Path
) -> None:
    study = simulated_study(models)
    study["items"] = {**study.get("items", {}), "share": 0.5, "finalists": 2}
    study["strategy"] = {"kind": "random", "generation_size": 3}
    study["tasks"] = {
        name: {"task": "simulated", "metric": "acc", "options": {"items": 120}}
        for name in ("one", "two")
    }
    study.pop("objectives", None)
    assert call("run", write_study(here / "mine.yaml", study), "--in-process").code == 0
    rows = json.loads(call("trials", "mine", "--json").out)
    proposed = [r for r in rows if r["generation"] and "final" not in str(r["label"])]
    finals = [r for r in rows if str(r["label"]).startswith("final of")]
    assert len(proposed) == 6
    assert len(finals) == 2
    assert all(0 < r["n_items"] < r["of_items"] for r in proposed)
    assert all(r["n_items"] == r["of_items"] for r in (*finals, rows[0]))
    assert all(r["errors"].keys() == r["values"].keys() for r in rows)
    assert [r["is_selected"] for r in rows] == [r["generation"] > 0 for r in rows]
    assert {r["feasible"] for r in proposed} == {None}
    table = call("trials", "mine").out.splitlines()
    assert "±" in table[1]
    assert "items" in table[1]
    row = proposed[0]
    assert f"{row['n_items']} of {row['of_items']}" in table[2 + row["number"]]
    front = json.loads(call("front", "mine", "--json").out)
    whole = {r["number"] for r in (*finals, *rows) if r["n_items"] == r["of_items"]}
    assert {r["number"] for r in front} <= whole
    found = json.loads(call("status", "mine", "--json").out)
    assert found["trials"] == 6
    (best,) = found["best"]
    assert best["trial"] in whole
    assert best["error"] > 0
    assert found["leader"]["n_items"] < found["leader"]["of_items"]
    shown = call("status", "mine").out
    assert f"on {found['leader']['n_items']} of {found['leader']['of_items']}" in shown
    number = str(proposed[0]["number"])
    assert " of 1" in call("show", "mine", "--trial", number).out
    out = str(tmp_path / "model")
    refused = call("export", "mine", out, "--trial", number)
    assert refused.code != 0
    assert "which is too few to choose it by" in refused.err
