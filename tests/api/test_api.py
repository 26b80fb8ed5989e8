"""The Python API: what its functions give, and what it costs to load it."""

import ast
import dataclasses
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from support.study_files import simulated_study, write_models, write_study

from evomerge import api
from evomerge.errors import (
    ExportError,
    SpecError,
    StudyExistsError,
    StudyNotFoundError,
)
from evomerge.search.scoreboard import Progress
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store

HEAVY = ("torch", "ray", "vllm", "lm_eval", "transformers", "sqlalchemy", "numpy")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def db(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'studies.db'}"


@pytest.fixture
def where(tmp_path: Path) -> api.Where:
    return api.Where(None, None, in_process=True, cache_dir=tmp_path / "cache")


@pytest.fixture
def study(tmp_path: Path, models: Path) -> Path:
    constraints = [{"measure": "two/acc", "at_least": 0.3}]
    data = simulated_study(models, constraints=constraints)
    return write_study(tmp_path / "mine.yaml", data)


def test_the_api_gives_at_run_time_what_type_checkers_read() -> None:
    tree = ast.parse(Path(api.__file__).read_text(encoding="utf-8"))
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    homes = {
        name.asname: node.module
        for node in typed.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert homes == api._MODULES
    for name in api.__all__:
        assert getattr(api, name) is getattr(import_module(homes[name]), name)


def test_loading_the_api_loads_no_library_that_takes_long() -> None:
    program = (
        "import sys, evomerge.api\n"
        f"print('loaded', *(m for m in {HEAVY!r} if m in sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["loaded"]


def test_a_study_is_resumed_where_it_ran_before(
    db: str, study: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    api.prepare(
        study, db=db, where=api.Where(3, "10.0.0.5:6379", False, cache_dir=cache)
    )
    open_where = api.Where(None, None, False, cache_dir=cache)
    again = api.take_up("mine", db=db, where=open_where)
    assert (again.where.workers, again.where.address) == (3, "10.0.0.5:6379")
    assert again.allowance["placement"] == again.where.remembered()
    here = api.take_up("mine", db=db, where=api.Where(1, "local", False, cache))
    assert (here.where.workers, here.where.address) == (1, None)
    inside = api.take_up("mine", db=db, where=api.Where(None, None, True, cache))
    assert inside.where.address is None
    assert inside.allowance["placement"] == again.where.remembered()


def test_every_public_name_is_there_and_frozen_where_it_is_a_value() -> None:
    assert list(api.__all__) == sorted(api.__all__)
    for name in api.__all__:
        value = getattr(api, name)
        if dataclasses.is_dataclass(value):
            assert value.__dataclass_params__.frozen, name  # type: ignore[attr-defined]


def test_a_search_tells_its_observer_every_generation(study, db, where) -> None:
    seen: list[Progress] = []
    prepared = api.prepare(study, db=db, where=where)
    assert prepared.objectives == ("score",)
    report = api.search(prepared, seen.append)
    assert report.reason == "trial budget used"
    assert report.trials == 6
    assert sorted({progress.generation for progress in seen}) == [0, 1, 2]
    assert seen[-1].done == 6
    best = seen[-1].best[0]
    assert best is not None
    assert (best.number, best.values[0]) == (
        report.best[0].trial,
        report.best[0].value,
    )


def test_the_best_and_the_front_keep_the_constraints(study, db, where) -> None:
    report = api.search(api.prepare(study, db=db, where=where))
    rows = api.trials("mine", db=db)
    feasible = [row for row in rows if row.scores["two/acc"] >= 0.3]
    assert 0 < len(feasible) < len(rows)
    assert report.best[0].value == max(row.values["score"] for row in feasible)
    front = {row.number for row in api.front("mine", db=db)}
    assert front <= {row.number for row in feasible}


def test_preparing_the_same_file_again_keeps_what_was_scored(study, db, where) -> None:
    api.search(api.prepare(study, db=db, where=where))
    before = api.trials("mine", db=db)
    api.prepare(study, db=db, where=where)
    assert api.trials("mine", db=db) == before


def test_preparing_takes_the_files_new_budget(study, db, where, models) -> None:
    api.search(api.prepare(study, db=db, where=where))
    constraints = [{"measure": "two/acc", "at_least": 0.3}]
    more = simulated_study(models, constraints=constraints, budget={"trials": 9})
    write_study(study, more)
    assert api.search(api.prepare(study, db=db, where=where)).trials == 9


def test_another_configuration_is_refused(study, db, where, models) -> None:
    api.search(api.prepare(study, db=db, where=where))
    write_study(study, simulated_study(models))
    with pytest.raises(StudyExistsError, match="constraints"):
        api.prepare(study, db=db, where=where)


def test_taking_up_changes_only_the_limits_given(study, db, where) -> None:
    api.prepare(study, db=db, where=where)
    budget = api.Budget(items=10_000, seconds=None, trials=None)
    taken = api.take_up("mine", db=db, where=where, budget=budget)
    assert taken.study.budget == api.Budget(trials=6, items=10_000, seconds=None)
    again = api.take_up("mine", db=db, where=where)
    assert again.study.budget == api.Budget(trials=6, items=None, seconds=None)


def test_a_study_that_is_not_there_is_told_by_every_function(study, db, where) -> None:
    api.prepare(study, db=db, where=where)
    wanted = api.Export(None, Path("out"))
    calls = (
        lambda: api.status("nobody", db=db),
        lambda: api.front("nobody", db=db),
        lambda: api.trials("nobody", db=db),
        lambda: api.take_up("nobody", db=db, where=where),
        lambda: api.export("nobody", wanted, db=db, cache_dir=where.cache_dir),
    )
    for call in calls:
        with pytest.raises(StudyNotFoundError, match="nobody"):
            call()


def test_status_and_the_list_of_studies_say_the_same_of_a_study(
    study, db, where
) -> None:
    api.prepare(study, db=db, where=where)
    said = []
    store = open_store(db)
    for change in (
        lambda lease: None,
        store.release,
        lambda lease: store.set_finished(lease, "trial budget used"),
        store.release,
    ):
        change(store.lease(store.study("mine").id, this_process(), 60))
        (row,) = api.studies(db=db)
        assert api.status("mine", db=db).state == row.state
        said.append(row.state)
    store.close()
    here = said[0]
    assert here.startswith(f"searching: process {os.getpid()} on ")
    assert said == [here, "stopped", here, "trial budget used"]


def test_a_study_that_has_not_begun_can_be_read(study, db, where) -> None:
    api.prepare(study, db=db, where=where)
    status = api.status("mine", db=db)
    assert (status.state, status.trials, status.front_size) == ("stopped", 0, 0)
    assert api.front("mine", db=db) == ()
    assert api.trials("mine", db=db) == ()
    with pytest.raises(ExportError, match="no feasible scored trial"):
        api.export(
            "mine", api.Export(None, Path("out")), db=db, cache_dir=where.cache_dir
        )


def test_in_process_and_a_cluster_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--address"):
        api.Where(None, "10.0.0.5:6379", in_process=True, cache_dir=tmp_path)


def test_check_estimates_from_what_a_trial_costs(study, db, where) -> None:
    found = api.check(study, db=db, cache_dir=where.cache_dir)
    assert found.trial_s is not None
    assert found.total_s == pytest.approx(found.trial_s * (6 + found.baselines))
    assert found.disk_bytes > 100_000
    told = dict(found.rows())
    assert told["space"] == "2 axes, 1.0e6 points"
    assert found.repeats.asked == 100
    assert told["items of one"].endswith("held out")


def test_check_estimates_within_the_time_a_budget_allows(
    tmp_path: Path, models: Path, db: str, where: api.Where
) -> None:
    tasks = {
        "one": {
            "task": "simulated",
            "metric": "acc",
            "options": {"items": 20},
        }
    }
    data = simulated_study(models, tasks=tasks, budget={"trials": 10**9, "minutes": 3})
    file = write_study(tmp_path / "long.yaml", data)
    found = api.check(file, db=db, cache_dir=where.cache_dir)
    assert found.total_s == 180.0
    assert dict(found.rows())["time in all"] == "3.0 min on 1 worker"


def test_export_counts_openings_and_reuses_what_is_known(
    study, db, where, tmp_path: Path
) -> None:
    api.search(api.prepare(study, db=db, where=where))
    cache = where.cache_dir
    first = api.export("mine", api.Export(5, tmp_path / "a"), db=db, cache_dir=cache)
    second = api.export("mine", api.Export(5, tmp_path / "b"), db=db, cache_dir=cache)
    assert (first.openings, second.openings) == (1, 2)
    assert first.fingerprint == second.fingerprint
    assert first.rivals == second.rivals
    (table,) = first.rivals
    assert table.rows[0].label == "trial 5"
    assert {row.label for row in table.rows[1:]} == {"base", "ja", "math", "uniform"}
    trials = {
        row.label or f"trial {row.number}": row for row in api.trials("mine", db=db)
    }
    assert first.selected == {"score": trials["trial 5"].values["score"]}
    gaps = [trials[r.label].values["score"] - r.value.value for r in table.rows]
    assert first.gaps == {"score": pytest.approx(gaps[0] - sum(gaps[1:]) / 4)}


def test_an_export_names_the_candidates_that_the_search_does_not_tell_from_it(
    study, db, where, tmp_path: Path
) -> None:
    api.search(api.prepare(study, db=db, where=where))
    wanted = api.Export(5, tmp_path / "a", is_scored=False)
    done = api.export("mine", wanted, db=db, cache_dir=where.cache_dir)
    assert done.gaps == {}
    every = {row.number: row for row in api.trials("mine", db=db)}
    apart = {
        n: abs(row.values["score"] - every[5].values["score"])
        for n, row in every.items()
        if row.generation > 0 and row.recipe != every[5].recipe
    }
    (found,) = done.alike.values()
    assert set(found) <= set(apart)
    others = set(apart) - set(found)
    closest = min((apart[n] for n in others), default=1.0)
    assert all(apart[n] < closest + 0.1 for n in found)  # those that are near


def test_a_baseline_that_cannot_be_scored_is_named_and_the_export_is_written(
    tmp_path: Path, models: Path, db: str, where: api.Where
) -> None:
    data = simulated_study(models, budget={"trials": 16})
    data["tasks"]["one"]["options"] = {"items": 20, "fail_if": 0.6}
    file = write_study(tmp_path / "mine.yaml", data)
    api.search(api.prepare(file, db=db, where=where))
    rows = api.trials("mine", db=db)
    failed = {row.label for row in rows if row.state == "failed" and row.label}
    assert failed, "the landscape lets at least one baseline fail"
    wanted = api.Export(None, tmp_path / "out")
    done = api.export("mine", wanted, db=db, cache_dir=where.cache_dir)
    assert set(done.unscored) == failed
    assert (tmp_path / "out" / "README.md").is_file()


def test_doctor_finds_nothing_bad_where_everything_is_installed(db, where) -> None:
    found = api.doctor(None, db=db, cache_dir=where.cache_dir)
    verdicts = {finding.name: finding.verdict for finding in found}
    assert verdicts.pop("database") == "note"
    assert set(verdicts.values()) == {"ok"}, found


def test_doctor_reports_a_folder_that_is_no_model_instead_of_failing(
    tmp_path: Path, db: str, where: api.Where
) -> None:
    check = api.EngineCheck(tmp_path, None, "hf", "float32")
    found = api.doctor(check, db=db, cache_dir=where.cache_dir)
    assert found[-1].verdict == "bad"
    assert "config.json" in found[-1].value
