import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evomerge import api
from evomerge.testing.models import tiny_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TRIALS = 6


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import study_dataflow
    from dataflow import page, search, setting, summary

    return SimpleNamespace(
        main=study_dataflow, page=page, search=search, setting=setting, summary=summary
    )


@pytest.fixture
def setting(bench: Any, tmp_path: Path) -> Any:
    for seed, name in enumerate(("base", "math", "ja")):
        tiny_model(tmp_path / name, seed=seed, n_layers=3)
    task = {"task": "simulated", "metric": "acc", "options": {"items": 20}}
    return bench.setting.Setting(
        name="made-up",
        title="Made up",
        sources={name: str(tmp_path / name) for name in ("base", "math", "ja")},
        operator={
            "operator": "task_arithmetic",
            "base": "base",
            "experts": ["math", "ja"],
            "knobs": {"weight": "search"},
        },
        experts=("math", "ja"),
        tasks={"one": task, "two": task},
        engine={"kind": "simulated"},
    )


@pytest.fixture
def page(bench: Any, tmp_path: Path) -> Path:
    file = tmp_path / "page.md"
    file.write_text(f"Before.\n{bench.page.BEGIN}\nold\n{bench.page.END}\nAfter.\n")
    return file


@pytest.fixture
def compare(bench: Any, setting: Any, page: Path, tmp_path: Path) -> Callable[..., Any]:
    def call(*variants: str, seeds: tuple[int, ...] = (1,)) -> Any:
        todo = [
            (setting, bench.setting.Job(setting.name, variant, seed))
            for seed in seeds
            for variant in variants
        ]
        place = bench.search.Place(tmp_path, TRIALS)
        return bench.main.study(todo, place, 1, page)

    return call


@pytest.mark.slow
def test_every_variant_has_as_many_candidates_and_a_row(
    bench: Any, compare: Callable[..., Any], page: Path
) -> None:
    results, n_new = compare(*bench.setting.VARIANTS)
    assert n_new == len(bench.setting.VARIANTS)
    assert {r.trials for r in results} == {TRIALS}
    text = page.read_text(encoding="utf-8")
    assert text.startswith("Before.")
    assert text.endswith("After.\n")
    assert "old" not in text
    for result in results:
        row = next(
            line
            for line in text.splitlines()
            if line.startswith(f"| {result.variant} ")
        )
        assert f" {result.sealed:.3f} |" in row
    assert page.with_suffix(".svg").read_text(encoding="utf-8").count("<circle") == 7


def test_a_finished_search_is_not_run_again(
    bench: Any, compare: Callable[..., Any]
) -> None:
    first, _ = compare(bench.setting.PS)
    again, n_new = compare(bench.setting.PS, bench.setting.DFS)
    assert n_new == 1
    assert first[0] in again


def test_a_search_that_was_cut_off_ends_as_if_it_had_not_been(
    bench: Any,
    compare: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    search = api.search

    def cut(prepared: api.Prepared, observer: Any) -> api.RunReport:
        def watch(progress: Any) -> None:
            if prepared.stage == "layers" and progress.done >= 2:
                raise KeyboardInterrupt

        return search(prepared, watch)

    variant = bench.setting.PS_DFS
    with monkeypatch.context() as patch:
        patch.setattr(api, "search", cut)
        with pytest.raises(KeyboardInterrupt):
            compare(variant)
    (result,), _ = compare(variant)
    for left in (tmp_path / "results").iterdir():
        left.unlink()
    (tmp_path / "dataflow.db").unlink()
    (whole,), _ = compare(variant)
    assert result.curve == whole.curve
    assert result.sealed == whole.sealed


def test_intervals_are_those_of_student(bench: Any) -> None:
    mean = bench.summary.Mean.of([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean.value == pytest.approx(3.0)
    assert mean.half == pytest.approx(1.963, abs=1e-3)  # t(4) 2.776, deviation 1.5811
    assert bench.summary.Mean.of([1.0]).half is None


def test_differences_are_taken_seed_by_seed(
    bench: Any, compare: Callable[..., Any], tmp_path: Path
) -> None:
    names = (bench.setting.PS, bench.setting.RANDOM + bench.setting.PS)
    results, _ = compare(*names, seeds=(1, 2))
    plain, drawn = bench.summary.rows(results)
    by_seed = {(r.variant, r.seed): r.sealed for r in results}
    differences = [by_seed[names[1], seed] - by_seed[names[0], seed] for seed in (1, 2)]
    assert plain.against is None
    assert drawn.against.value == pytest.approx(sum(differences) / 2)
    stored = json.loads((tmp_path / "results" / "made-up-ps-1.json").read_text())
    assert stored["sealed"] == by_seed[names[0], 1]
