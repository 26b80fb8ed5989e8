"""Sizes in a study file are refused before anything is made of that size."""

from pathlib import Path
from typing import Any

import pytest
from support.study_files import simulated_study, write_models, write_study

from evomerge.errors import SpecError
from evomerge.specs.studies.study_file import load_study, read_study


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


def weight(**search: Any) -> dict[str, Any]:
    return {
        "operator": "task_arithmetic",
        "base": "base",
        "knobs": {"weight": {"low": 0.0, "high": 1.0, **search}},
    }


def flow(**keys: Any) -> dict[str, Any]:
    return {"flow": {"kind": "gates", "sources": ["math", "ja"], **keys}}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"space": weight(by={"depth": 10**9})}, "knobs.weight.by.depth"),
        ({"space": weight(by={"groups": 10**9})}, "knobs.weight.by.groups"),
        ({"space": flow(repeats=10**9)}, "flow.repeats"),
        ({"space": flow(kind="slices", slices=10**9)}, "flow.slices"),
        ({"space": flow(kind="edits", edits=10**9)}, "flow.edits"),
        ({"space": flow(depth={"max": 10**9})}, "flow.depth.max"),
        ({"strategy": {"kind": "random", "generation_size": 10**9}}, "generation_size"),
    ],
)
def test_a_count_beyond_all_use_is_refused_by_its_key(
    models: Path, tmp_path: Path, changes: dict[str, Any], key: str
) -> None:
    file = write_study(tmp_path / "s.yaml", simulated_study(models, **changes))
    with pytest.raises(SpecError, match=f"{key}.*expected a number of at most"):
        load_study(file)


@pytest.mark.parametrize(
    "bounds",
    [
        {"low": -1e308, "high": 1e308},
        {"low": 0.0, "high": 5e-324},
        {"low": 1.0, "high": 1.0000000000000002},
        {"low": 5e-324, "high": 1e308, "log": True},
        {"grid": 1e-300},
    ],
)
def test_a_range_without_steps_is_refused_by_its_key(
    models: Path, tmp_path: Path, bounds: dict[str, float]
) -> None:
    study = simulated_study(models, space=weight(**bounds))
    with pytest.raises(SpecError, match=r"weight\.ja: expected a range that floats"):
        read_study(write_study(tmp_path / "s.yaml", study))


BASELINE = {"name": "ta", "operator": "task_arithmetic"}
GRID = {name: [i / 50 for i in range(50)] for name in ("lambda", "weight")}


@pytest.mark.parametrize(
    ("others", "starts", "said"),
    [
        ([{**BASELINE, "grid": GRID}], 0, "got 2500 baselines .* and 0 under"),
        (
            [{**BASELINE, "name": f"ta{i}"} for i in range(1001)],
            0,
            "got 1001 baselines",
        ),
        ([], 1001, "got 0 baselines .* and 1001 under `start`"),
        ([{**BASELINE, "grid": {"lambda": GRID["lambda"]}}], 960, "got 50 .* and 960"),
    ],
)
def test_too_many_merges_to_score_first_are_refused(
    models: Path, tmp_path: Path, others: list[Any], starts: int, said: str
) -> None:
    study = simulated_study(
        models,
        baselines={"others": others},
        start=[{"name": f"s{i}", "knobs": {}} for i in range(starts)],
    )
    with pytest.raises(SpecError, match=f"baselines: expected at most 1000 .*{said}"):
        read_study(write_study(tmp_path / "s.yaml", study))


@pytest.mark.parametrize("unit", ["minutes", "hours"])
def test_a_time_beyond_all_numbers_is_told(tmp_path: Path, unit: str) -> None:
    study = simulated_study(write_models(tmp_path), budget={unit: 1e307})
    with pytest.raises(SpecError, match=f"{unit} are more seconds than a number holds"):
        read_study(write_study(tmp_path / "study.yaml", study))
