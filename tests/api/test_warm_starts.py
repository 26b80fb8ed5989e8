"""A study may begin with what another one found."""

from pathlib import Path

import pytest
from support.study_files import simulated_study, staged_study, write_models, write_study

from evomerge import api
from evomerge.errors import SpecError, StudyExistsError
from evomerge.specs.studies.restored import restore
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
def run(tmp_path: Path, models: Path, db: str, where: api.Where):
    def run(name: str, **changes):
        data = simulated_study(models, name=name, **changes)
        return searched(write_study(tmp_path / f"{name}.yaml", data))

    def searched(file: Path):
        prepared = api.prepare(file, db=db, where=where)
        api.search(prepared)
        return prepared

    run.searched = searched
    return run


def ranked(name: str, db: str):
    rows = [row for row in api.trials(name, db=db) if row.generation > 0]
    return sorted(rows, key=lambda row: (-row.values["score"], row.number))


def test_the_best_candidates_of_another_study_are_tried_first(run, db) -> None:
    run("first")
    run("second", start={"study": "first", "top": 2})
    best = ranked("first", db)[:2]
    began = [row for row in api.trials("second", db=db) if row.generation == 0][-2:]
    assert [row.label for row in began] == [f"first trial {b.number}" for b in best]
    assert [row.recipe for row in began] == [row.recipe for row in best]
    assert [row.point for row in began] == [row.point for row in best]


def test_the_search_begins_at_the_best_point_that_lies_in_its_space(run, db) -> None:
    run("first")
    prepared = run("second", start={"study": "first", "top": 3})
    assert prepared.study.space.start() == ranked("first", db)[0].point


def test_a_candidate_outside_of_the_space_is_tried_all_the_same(run, db) -> None:
    run("first")
    narrow = {
        "operator": "task_arithmetic",
        "base": "base",
        "knobs": {"weight": {"low": 0.001, "high": 0.002}},
    }
    prepared = run("narrow", start=[{"study": "first"}], space=narrow)
    (began,) = [
        r for r in api.trials("narrow", db=db) if r.label and "first" in r.label
    ]
    assert began.recipe == ranked("first", db)[0].recipe
    assert began.point is None
    assert max(prepared.study.space.start().values()) <= 0.002


def test_what_a_study_began_with_stays_when_the_other_finds_more(
    run, db, tmp_path, models, where
) -> None:
    run("first")
    run("second", start={"study": "first"})
    before = api.trials("second", db=db)
    api.search(api.take_up("first", db=db, where=where, budget=api.Budget(trials=30)))
    run.searched(tmp_path / "second.yaml")  # the same file once more
    assert api.trials("second", db=db) == before
    more = simulated_study(models, name="second", start={"study": "first", "top": 2})
    with pytest.raises(StudyExistsError, match="start"):
        api.prepare(write_study(tmp_path / "m.yaml", more), db=db, where=where)


def test_a_recorded_study_is_rebuilt_without_the_other(run, db) -> None:
    run("first")
    prepared = run("second", start={"study": "first", "top": 2})
    api.delete("first", db=db)
    store = open_store(db)
    try:
        stored = store.study("second")
        again = restore(stored.config, stored.allowance)
    finally:
        store.close()
    assert again.config == prepared.study.config
    assert again.space == prepared.study.space


def test_one_trial_may_be_named(run, db) -> None:
    run("first")
    number = ranked("first", db)[-1].number
    run("second", start={"study": "first", "trial": number})
    labels = [row.label for row in api.trials("second", db=db) if row.generation == 0]
    assert labels[-1] == f"first trial {number}"


def test_what_is_otherwise_than_in_the_other_study_is_said(run, caplog) -> None:
    run("first")
    run("second", start={"study": "first"}, seed=7)
    (said,) = [m for m in caplog.messages if "begins with what 'first' found" in m]
    assert "seed: 0 -> 7" in said


def test_stages_begin_with_what_another_study_found(
    run, db, tmp_path, models, where
) -> None:
    run("first")
    data = staged_study(models)
    data["stages"][0]["start"] = {"study": "first"}
    prepared = api.prepare(write_study(tmp_path / "two.yaml", data), db=db, where=where)
    best = ranked("first", db)[0]
    assert prepared.study.baselines[-1].label == f"first trial {best.number}"
    assert prepared.study.baselines[-1].recipe.digest == best.recipe


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"study": "nobody"}, "nobody"),
        ({"study": "first", "trial": 99}, "99"),
        ({"study": "first", "top": 0}, "expected a number above 0"),
        ({"study": "first", "name": "mine"}, "only top or trial"),
        ({"study": "first", "top": 2, "trial": 1}, "either top or trial"),
        ({"top": 2, "name": "mine"}, "expected a study"),
        ({"knobs": {"weight": 0.5}}, "expected a name"),
    ],
)
def test_what_cannot_be_begun_with_is_a_mistake_of_the_file(
    run, tmp_path, models, db, where, start, message
) -> None:
    run("first")
    data = simulated_study(models, name="second", start=start)
    file = write_study(tmp_path / "second.yaml", data)
    with pytest.raises(SpecError, match="start") as caught:
        api.prepare(file, db=db, where=where)
    assert message in str(caught.value)


def test_other_sources_are_refused(run, db, tmp_path, where) -> None:
    run("first")
    others = write_models(tmp_path / "others", seed=9)
    data = simulated_study(others, name="second", start={"study": "first"})
    file = write_study(tmp_path / "second.yaml", data)
    with pytest.raises(SpecError, match="this study's sources"):
        api.prepare(file, db=db, where=where)
