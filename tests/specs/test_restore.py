import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from evomerge.core.recipes.recipe import VERSION
from evomerge.errors import SpecError
from evomerge.specs.persistence import diff
from evomerge.specs.resolved import ResolvedStudy
from evomerge.specs.schema.measures import CUT
from evomerge.specs.studies.restored import restore
from evomerge.specs.studies.study_file import read_studies, read_study
from evomerge.testing.models import tiny_model

Write = Callable[..., Path]


@pytest.fixture
def study(minimal: dict[str, Any], write: Write, tmp_path: Path) -> ResolvedStudy:
    """A study that uses most of what can be written."""
    evaluators = {"tasks": {"copy": {"include": "local", "metric": "acc"}}}
    write(evaluators, "tasks.yaml")
    first = read_study(write(minimal))
    recipe = first.baselines[-1].recipe.to_json()
    recipe_file = write(recipe, "mine.yaml")
    minimal |= {
        "evaluators": ["tasks.yaml"],
        "space": {
            "operator": ["task_arithmetic", "ties"],
            "base": "base",
            "experts": ["math", "ja"],
            "knobs": {"weight": {"by": {"groups": 2, "ends": "own"}}},
        },
        "objectives": [{"name": "skill", "mean_of": ["*"], "worst": 0.5}],
        "constraints": [
            {"objective": "skill", "drop_at_most": 0.1, "relative_to": "math"}
        ],
        "start": [
            {"name": "file", "recipe": recipe_file.name},
            {"name": "point", "knobs": {"operator": "ties", "weight": 0.9}},
        ],
        "strategy": {"kind": "tpe", "options": {"startup": 5}},
        "workers": 2,
        "budget": {"trials": 10, "minutes": 3},
    }
    return read_study(write(minimal))


def stored(study: ResolvedStudy) -> tuple[dict[str, Any], dict[str, Any]]:
    """What comes back from a database: JSON, keys in another order."""
    config, allowance = (
        json.loads(json.dumps(part, sort_keys=True, allow_nan=False))
        for part in (study.config, study.allowance)
    )
    return config, allowance


def test_a_study_comes_back_from_what_was_stored(
    study: ResolvedStudy, tmp_path: Path
) -> None:
    config, allowance = stored(study)
    for file in tmp_path.glob("*.yaml"):
        file.unlink()
    again = restore(config, allowance)
    for field in fields(ResolvedStudy):
        if field.compare:  # not where its file has it
            assert getattr(again, field.name) == getattr(study, field.name), field.name


def test_the_configuration_names_no_path(study: ResolvedStudy, zoo: Path) -> None:
    text = json.dumps(study.config)
    assert str(zoo) not in text
    assert "local" not in text
    assert study.allowance["includes"]["copy"].endswith("local")


def test_budget_workers_and_placement_may_change(study: ResolvedStudy) -> None:
    config, allowance = stored(study)
    allowance["budget"]["trials"] = 99
    allowance["workers"] = "auto"
    allowance["engine"]["max_num_seqs"] = 4
    again = restore(config, allowance)
    assert again.budget.trials == 99
    assert again.budget.seconds == 180.0
    assert again.workers is None
    assert again.engine.max_num_seqs == 4
    assert again.config == study.config


def test_a_moved_source_is_found_and_a_changed_one_is_refused(
    study: ResolvedStudy, tmp_path: Path
) -> None:
    config, allowance = stored(study)
    moved = tiny_model(tmp_path / "moved", seed=1)
    allowance["sources"]["math"] = str(moved)
    assert restore(config, allowance).sources["math"].path == moved
    allowance["sources"]["math"] = str(tiny_model(tmp_path / "other", seed=5))
    with pytest.raises(SpecError, match=r"sources\.math: .* -> .*the study began with"):
        restore(config, allowance)


def test_a_source_that_is_gone_is_named(study: ResolvedStudy) -> None:
    config, allowance = stored(study)
    allowance["sources"]["ja"] = "/nowhere"
    with pytest.raises(SpecError, match=r"study.yaml: sources\.ja: .*does not exist"):
        restore(config, allowance)


def test_a_configuration_of_another_version_is_refused(study: ResolvedStudy) -> None:
    config, allowance = stored(study)
    with pytest.raises(SpecError, match="version 1, got 7"):
        restore(config | {"version": 7}, allowance)


def test_recipes_of_a_study_stay_of_the_version_it_was_recorded_with(
    study: ResolvedStudy, minimal: dict[str, Any], write: Write
) -> None:
    config, allowance = stored(study)
    assert config["recipe_version"] == 2
    old = read_studies(write(minimal), versions=(1, CUT))[0]
    before, allowed = stored(old)
    assert "recipe_version" not in before
    again = restore(before, allowed)
    point = study.space.start()
    recipes = [one.blueprint.recipe(point) for one in (study, again)]
    assert [recipe.version for recipe in recipes] == [2, 1]
    assert {b.recipe.version for b in again.baselines} == {1}
    assert again.config == old.config != study.config
    with pytest.raises(SpecError, match="recipes of version 1 or 2, got 3"):
        restore(config | {"recipe_version": 3}, allowance)


def test_a_study_keeps_the_cut_into_blocks_it_was_recorded_with(
    study: ResolvedStudy, minimal: dict[str, Any], write: Write
) -> None:
    config, allowance = stored(study)
    assert config["cut"] == 2
    old = read_studies(write(minimal), versions=(VERSION, 1))[0]
    before, allowed = stored(old)
    assert "cut" not in before
    again = restore(before, allowed)
    cuts = [(t.n_blocks, t.block_items) for s in (study, again) for t in s.tasks]
    assert cuts == [(16, 10), (16, 10), (4, 1), (4, 1)]
    assert again.config == old.config != study.config
    with pytest.raises(SpecError, match="a cut into blocks of version 1 or 2, got 3"):
        restore(config | {"cut": 3}, allowance)


def test_a_bad_allowance_is_refused_by_key(study: ResolvedStudy) -> None:
    config, allowance = stored(study)
    allowance["budget"] = {"trials": 0}
    with pytest.raises(SpecError, match=r"budget\.trials: expected a number above 0"):
        restore(config, allowance)


def test_a_difference_is_told_by_key_old_and_new(
    minimal: dict[str, Any], write: Write
) -> None:
    old = read_study(write(minimal))
    minimal["seed"] = 4
    minimal["space"]["knobs"]["weight"] = {"low": 0.0}
    minimal["tasks"]["more"] = {"metric": "acc"}
    new = read_study(write(minimal))
    assert diff(old.config, new.config) == [
        "seed: 0 -> 4",
        'space.knobs.weight: "search" -> (nothing)',
        'space.knobs.weight.by: (nothing) -> "global"',
        "space.knobs.weight.low: (nothing) -> 0.0",
        'space.knobs.weight.per_input: (nothing) -> "each"',
        "tasks.more.apply_chat_template: (nothing) -> false",
        'tasks.more.metric: (nothing) -> "acc"',
        "tasks.more.trust_code: (nothing) -> false",
    ]
    assert diff(old.config, old.config) == []


def test_what_only_a_new_default_would_change_is_told_too(
    study: ResolvedStudy,
) -> None:
    config, _ = stored(study)
    config["axes"]["weight.math.embed"]["high"] = 3.0
    assert diff(config, study.config) == ["axes.weight.math.embed.high: 3.0 -> 2.0"]
