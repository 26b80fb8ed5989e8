"""A study in stages from beginning to end: what is taken, recorded and gone on with."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from support.study_files import (
    simulated_study,
    staged_study,
    write_models,
    write_study,
)

from evomerge import api
from evomerge.core.recipes.recipe import Nested
from evomerge.errors import StageError, StudyExistsError, StudyLockedError
from evomerge.store.base import Owner, Store
from evomerge.store.sql import open_store


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
def study(models: Path) -> dict[str, Any]:
    return staged_study(models)


@pytest.fixture
def file(tmp_path: Path, study: dict[str, Any]) -> Path:
    return write_study(tmp_path / "two.yaml", study)


def searched(first: api.Prepared | None) -> list[api.RunReport]:
    """Search a study and its further stages."""
    reports = []
    while first is not None:
        reports.append(api.search(first))
        first = api.following(first)
    return reports


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    """A database in which both stages have been searched."""
    folder = tmp_path_factory.mktemp("finished")
    where = api.Where(None, None, True, cache_dir=folder / "cache")
    file = write_study(folder / "two.yaml", staged_study(models))
    searched(api.prepare(file, db=f"sqlite:///{folder / 'studies.db'}", where=where))
    return folder / "studies.db"


@pytest.fixture
def done(finished: Path, tmp_path: Path, db: str) -> str:
    """A copy of it."""
    shutil.copy(finished, tmp_path / "studies.db")
    return db


def opened(db: str) -> Store:
    return open_store(db)


def test_every_stage_is_searched_on_what_the_one_before_found(
    file: Path, db: str, where: api.Where
) -> None:
    ps, dfs = searched(api.prepare(file, db=db, where=where))
    assert (ps.name, dfs.name) == ("two.ps", "two.dfs")
    store = opened(db)
    best = store.trial(store.study("two.ps").id, ps.best[0].trial)
    for trial in store.trials(store.study("two.dfs").id, 1):
        recipe = trial.candidate.recipe
        taken = dict(recipe.inputs).get("merged")
        assert taken in (None, Nested(best.candidate.recipe))
    rows = {row.label: row for row in api.trials("two.dfs", db=db)}
    assert rows["merged"].recipe == best.candidate.recipe.digest
    assert rows["merged"].reused
    assert rows["merged"].values["score"] == ps.best[0].value
    assert not store.check()
    store.close()


def test_a_stage_is_recorded_with_what_it_took(done: str) -> None:
    ps, _ = api.stages("two", db=done)
    store = opened(done)
    stage = store.study("two.dfs").config["stage"]
    assert (stage["study"], stage["name"], stage["number"]) == ("two", "dfs", 1)
    assert stage["taken"]["merged"]["trial"] == ps.best[0].trial
    store.close()


def test_no_stage_begins_before_the_one_it_builds_on_is_finished(
    file: Path, db: str, where: api.Where
) -> None:
    first = api.prepare(file, db=db, where=where)
    assert first.stage == "ps"
    assert api.following(first) is None
    assert [row.name for row in api.studies(db=db)] == ["two.ps"]


def test_a_study_is_gone_on_with_by_its_name_without_its_file(
    file: Path, db: str, where: api.Where
) -> None:
    api.search(api.prepare(file, db=db, where=where))
    file.unlink()
    second = api.take_up("two", db=db, where=where)
    assert second.stage == "dfs"
    assert api.take_up("two.ps", db=db, where=where).stage == "dfs"
    assert searched(second)[0].trials == 6
    assert api.take_up("two", db=db, where=where).stage == "dfs"


def test_running_the_file_again_goes_on_and_changes_nothing_that_is_there(
    file: Path, done: str, db: str, where: api.Where
) -> None:
    before = [api.trials(f"two.{stage}", db=db) for stage in ("ps", "dfs")]
    (report,) = searched(api.prepare(file, db=db, where=where))
    assert report.name == "two.dfs"
    assert [api.trials(f"two.{stage}", db=db) for stage in ("ps", "dfs")] == before


def test_a_stage_that_has_not_begun_may_change(
    file: Path, study: dict[str, Any], db: str, where: api.Where
) -> None:
    api.search(api.prepare(file, db=db, where=where))
    study["stages"][1]["space"]["flow"]["sources"] = ["merged", "ja"]
    second = api.prepare(write_study(file, study), db=db, where=where)
    assert second.study.config["study"]["space"]["flow"]["sources"] == ["merged", "ja"]


@pytest.mark.parametrize(
    ("number", "change"),
    [
        (0, {"seed": 9}),
        (1, {"seed": 9}),
        (1, {"take": {"merged": {"stage": "ps", "best": "score"}}}),
    ],
)
def test_a_stage_that_has_results_may_not_change(
    file: Path,
    study: dict[str, Any],
    done: str,
    where: api.Where,
    number: int,
    change: dict[str, Any],
) -> None:
    study["stages"][number] |= change
    write_study(file, study)
    with pytest.raises(StudyExistsError):
        api.prepare(file, db=done, where=where)
    with pytest.raises(StudyExistsError):
        api.check(file, db=done, cache_dir=where.cache_dir, dry_run=False)


def test_a_budget_belongs_to_one_stage_until_the_next_has_begun(
    file: Path, db: str, where: api.Where
) -> None:
    more = api.Budget(trials=8)
    first = api.prepare(file, db=db, where=where)
    api.search(first)
    with pytest.raises(StageError, match=r"resume two\.ps --trials"):
        api.take_up("two", db=db, where=where, budget=more)
    longer = api.take_up("two.ps", db=db, where=where, budget=more)
    assert longer.stage == "ps"
    ps, _ = searched(longer)
    assert ps.trials == 8
    with pytest.raises(StageError, match=r"closed: 'two\.dfs' has begun"):
        api.take_up("two.ps", db=db, where=where, budget=api.Budget(trials=9))
    last = api.take_up("two.dfs", db=db, where=where, budget=more)
    assert api.search(last).trials == 8
    for name in ("two", "two.ps", "two.dfs"):
        again = api.take_up(name, db=db, where=where)
        assert (again.stage, again.study.budget.trials) == ("dfs", 8)


def test_a_stage_without_a_feasible_candidate_says_what_to_do_and_loses_nothing(
    tmp_path: Path, study: dict[str, Any], db: str, where: api.Where
) -> None:
    study["stages"][0]["constraints"] = [{"measure": "one/acc", "at_least": 2.0}]
    file = write_study(tmp_path / "two.yaml", study)
    first = api.prepare(file, db=db, where=where)
    api.search(first)
    with pytest.raises(StageError, match=r"but has 0.*resume two\.ps --trials N"):
        api.following(first)
    with pytest.raises(StageError):
        api.take_up("two", db=db, where=where)
    assert api.status("two.ps", db=db).trials == 6
    assert (
        api.take_up("two.ps", db=db, where=where, budget=api.Budget(trials=7)).stage
        == "ps"
    )


def test_more_of_a_front_than_there_is_is_refused(
    tmp_path: Path, study: dict[str, Any], db: str, where: api.Where
) -> None:
    dfs = study["stages"][1]
    names = [f"merged{i}" for i in range(1, 41)]
    dfs |= {"take": {"merged": {"stage": "ps", "front": 40}}}
    dfs["space"] = {"flow": {"kind": "donors", "sources": names, "pin": "none"}}
    first = api.prepare(write_study(tmp_path / "two.yaml", study), db=db, where=where)
    api.search(first)
    with pytest.raises(StageError, match="different candidates"):
        api.following(first)


def test_the_next_stage_waits_for_whoever_is_at_the_one_before(
    file: Path, db: str, where: api.Where
) -> None:
    first = api.prepare(file, db=db, where=where)
    api.search(first)
    store = opened(db)
    lease = store.lease(store.study("two.ps").id, Owner("elsewhere", 1, "then"), 30.0)
    with pytest.raises(StudyLockedError):
        api.following(first)
    assert [row.name for row in api.studies(db=db)] == ["two.ps"]
    store.release(lease)
    assert api.following(first) is not None
    store.close()


def test_a_name_is_of_a_study_with_stages_or_of_one_without(
    file: Path, models: Path, tmp_path: Path, db: str, where: api.Where
) -> None:
    plain = write_study(tmp_path / "plain.yaml", simulated_study(models, name="two"))
    api.prepare(file, db=db, where=where)
    with pytest.raises(StudyExistsError, match="with stages"):
        api.prepare(plain, db=db, where=where)
    elsewhere = db.replace("studies", "others")
    api.prepare(plain, db=elsewhere, where=where)
    with pytest.raises(StudyExistsError, match="without stages"):
        api.prepare(file, db=elsewhere, where=where)


def test_a_check_tells_of_every_stage(file: Path, db: str, where: api.Where) -> None:
    found = api.check(file, db=db, cache_dir=where.cache_dir)
    assert [one.name for one in (found, *found.later)] == ["two.ps", "two.dfs"]
    assert all(one.trial_s is not None for one in (found, *found.later))


def test_stages_are_told_together_with_those_to_come(
    file: Path, models: Path, tmp_path: Path, db: str, where: api.Where
) -> None:
    first = api.prepare(file, db=db, where=where)
    ps, dfs = api.stages("two", db=db)
    assert (ps.name, ps.state, ps.trials) == ("two.ps", "stopped", 0)
    assert (dfs.name, dfs.state, dfs.takes) == ("two.dfs", "waiting", {"merged": "ps"})
    other = write_study(tmp_path / "other.yaml", simulated_study(models, name="other"))
    api.prepare(other, db=db, where=where)
    searched(first)
    ps, dfs = api.stages("two", db=db)
    assert (ps.state, ps.trials, ps.allowed) == ("trial budget used", 6, 6)
    assert dfs.takes == {"merged": f"trial {ps.best[0].trial} of ps"}
    assert api.stages("other", db=db) == ()
    names = [row.name for row in api.studies(db=db)]
    assert names == ["two.ps", "two.dfs", "other"]


def test_a_study_is_deleted_with_all_its_stages_and_a_stage_alone(
    file: Path, done: str, db: str, where: api.Where
) -> None:
    api.delete("two.ps", db=db)
    assert [row.name for row in api.stages("two", db=db)] == ["two.dfs"]
    assert api.take_up("two", db=db, where=where).stage == "dfs"
    searched(api.prepare(file, db=db, where=where))
    expected = sum(len(api.trials(f"two.{s}", db=db)) for s in ("ps", "dfs"))
    assert api.removal("two", db=db).trials == expected
    assert api.delete("two", db=db).trials == expected
    assert api.studies(db=db) == ()
    assert api.audit(db=db).faults == ()


def test_a_front_of_score_and_depth_becomes_sources(
    tmp_path: Path, study: dict[str, Any], db: str, where: api.Where
) -> None:
    dfs = study["stages"][1]
    skill = {"name": "skill", "mean_of": ["*"]}
    dfs["objectives"] = [skill, {"name": "layers", "measure": "cost/layers"}]
    dfs["space"]["flow"] |= {"pin": "none", "depth": {"min": 1}}
    dfs |= {"strategy": {"kind": "nsga2", "generation_size": 4}}
    last = {
        "name": "last",
        "take": {
            "stack": {"stage": "dfs", "front": 2},
            "slim": {"stage": "dfs", "best": "layers"},
        },
        "space": {"flow": {"kind": "slices", "sources": ["stack1", "stack2", "slim"]}},
        "budget": {"trials": 4},
    }
    study["stages"].append(last)
    file = write_study(tmp_path / "two.yaml", study)
    _, middle, end = searched(api.prepare(file, db=db, where=where))
    slim = next(best for best in middle.best if best.objective == "layers")
    rows = {row.number: row for row in api.trials("two.dfs", db=db)}
    took = {row.label: row.recipe for row in api.trials("two.last", db=db)}
    assert took["slim"] == rows[slim.trial].recipe
    assert {took["stack1"], took["stack2"]} <= {row.recipe for row in rows.values()}
    assert took["stack1"] != took["stack2"]
    assert end.trials == 4
    assert api.audit(db=db).faults == ()
