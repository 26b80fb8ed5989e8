"""A set-up on a machine that is not the coordinator's: what it finds, what it fetches.

The other machine is a cache folder of its own, and paths that are not there.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from evomerge.checkpoints import read_model
from evomerge.checkpoints.statistics import read_statistics
from evomerge.cluster import goods, on_node
from evomerge.cluster.courier import Courier
from evomerge.cluster.goods import Stock, stock_of
from evomerge.cluster.on_node import Fetch, Lacking, settle
from evomerge.core.work import EngineSettings, TaskSettings, WorkerSetup
from evomerge.errors import NodeError
from evomerge.testing.models import tiny_model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the node keeps things."""
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "node"))
    monkeypatch.setattr(on_node, "CHUNK", 1000)
    monkeypatch.setattr("evomerge.cluster.courier.CHUNK", 1000)
    return tmp_path / "node"


@pytest.fixture
def setup(tmp_path: Path) -> WorkerSetup:
    """Return what a coordinator has: a model, and a folder of task files."""
    model = tiny_model(tmp_path / "here" / "m", n_layers=1)
    tasks = tmp_path / "here" / "tasks"
    (tasks / "data").mkdir(parents=True)
    (tasks / "sums.yaml").write_text("task: sums\n")
    (tasks / "data" / "sums.jsonl").write_text('{"q": 1}\n' * 300)
    return WorkerSetup(
        engine=EngineSettings("hf"),
        tasks=(TaskSettings("sums", "sums", include_path=str(tasks)),),
        sources={read_model(model).fingerprint: str(model)},
        frame="f",
        probe=None,
        cache_dir=str(tmp_path / "here" / "cache"),
    )


def courier(stock: Stock) -> Fetch:
    every = (*stock.tasks.values(), *stock.models.values())
    return Courier({parcel.name: parcel for parcel in every}).read


def away(setup: WorkerSetup, stock: Stock) -> tuple[WorkerSetup, Stock, Fetch]:
    """Return the three as they are where the coordinator's folders are not."""

    def other(path: str) -> str:
        return path.replace("/here/", "/nowhere/")

    there = replace(
        setup,
        sources={name: other(path) for name, path in setup.sources.items()},
        tasks=tuple(
            replace(task, include_path=other(task.include_path or ""))
            for task in setup.tasks
        ),
    )
    tasks = {other(path): parcel for path, parcel in stock.tasks.items()}
    large = {other(path): why for path, why in stock.too_large.items()}
    moved = replace(stock, tasks=tasks, too_large=large)
    return there, moved, courier(stock)


def settled(found: WorkerSetup | Lacking) -> WorkerSetup:
    assert isinstance(found, WorkerSetup)
    return found


def test_what_is_there_with_the_same_content_is_used_where_it_is(
    setup: WorkerSetup, cache: Path
) -> None:
    found = settled(settle(setup, stock_of(setup), None))
    assert found == replace(setup, cache_dir=str(cache))


def test_what_is_not_there_is_asked_for_and_then_fetched_once(
    setup: WorkerSetup, cache: Path
) -> None:
    there, stock, fetch = away(setup, stock_of(setup))
    lacking = settle(there, stock, None)
    assert isinstance(lacking, Lacking)
    assert sorted(lacking.what) == sorted(
        [*setup.sources.values(), setup.tasks[0].include_path]
    )
    found = settled(settle(there, stock, fetch))
    ((fingerprint, folder),) = found.sources.items()
    assert Path(folder).is_relative_to(cache)
    assert read_model(folder).fingerprint == fingerprint
    tasks = Path(found.tasks[0].include_path or "")
    assert tasks.is_relative_to(cache)
    assert (tasks / "data" / "sums.jsonl").read_text() == '{"q": 1}\n' * 300

    def never(parcel: str, name: str, offset: int) -> bytes:
        raise AssertionError(f"{name} of {parcel} was fetched again")

    assert settle(there, stock, never) == found


def test_a_file_of_statistics_is_found_or_fetched_as_a_model_is(
    setup: WorkerSetup, cache: Path, tmp_path: Path
) -> None:
    file = tmp_path / "here" / "fisher.safetensors"
    save_file({"w": torch.ones(2000)}, file)
    content = read_statistics(file, "fisher").fingerprint
    setup = replace(setup, sources={**setup.sources, content: str(file)})
    assert settled(settle(setup, stock_of(setup), None)).sources[content] == str(file)
    there, stock, fetch = away(setup, stock_of(setup))
    found = settled(settle(there, stock, fetch)).sources[content]
    assert Path(found).is_relative_to(cache)
    assert read_statistics(found, "fisher").fingerprint == content


def test_a_folder_of_the_same_name_with_other_content_is_not_taken(
    setup: WorkerSetup, cache: Path
) -> None:
    stock = stock_of(setup)
    there, moved, fetch = away(setup, stock)
    tasks = Path(there.tasks[0].include_path or "")
    tasks.mkdir(parents=True)
    (tasks / "sums.yaml").write_text("task: other sums\n")
    (model,) = there.sources.values()
    tiny_model(model, n_layers=1, seed=7)
    found = settled(settle(there, moved, fetch))
    assert Path(found.tasks[0].include_path or "").is_relative_to(cache)
    assert Path(*found.sources.values()).is_relative_to(cache)


def test_what_changed_since_the_study_began_does_not_get_into_the_cache(
    setup: WorkerSetup, cache: Path
) -> None:
    stock = stock_of(setup)
    there, moved, fetch = away(setup, stock)
    Path(setup.tasks[0].include_path or "", "sums.yaml").write_text("task: smus\n")
    with pytest.raises(NodeError, match="arrived with other content"):
        settle(there, moved, fetch)
    assert not [path for path in (cache / "tasks").iterdir() if path.is_dir()]


@pytest.mark.parametrize("limit", ["MOST_MODEL_BYTES", "MOST_TASK_BYTES"])
def test_what_is_too_large_to_be_brought_is_named_with_its_limit(
    setup: WorkerSetup, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(goods, limit, 100)
    there, stock, fetch = away(setup, stock_of(setup))
    with pytest.raises(NodeError, match=r"It has no .* /.*/nowhere/.*: more than"):
        settle(there, stock, fetch)


def test_a_cache_that_cannot_be_written_is_named_with_what_to_set(
    setup: WorkerSetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(NodeError, match="Set EVOMERGE_CACHE on that node"):
        settle(setup, stock_of(setup), None)


def test_a_courier_reads_no_file_that_is_not_of_its_parcels(setup: WorkerSetup) -> None:
    stock = stock_of(setup)
    (parcel,) = stock.tasks.values()
    with pytest.raises(KeyError):
        courier(stock)(parcel.name, "../m/config.json", 0)
    with pytest.raises(KeyError):
        courier(stock)("other", "sums.yaml", 0)


def test_a_name_that_leads_out_of_its_folder_is_refused(setup: WorkerSetup) -> None:
    there, stock, fetch = away(setup, stock_of(setup))
    ((path, parcel),) = stock.tasks.items()
    wrong = {path: replace(parcel, files={"../../out": 1})}
    with pytest.raises(NodeError, match="no name of a file within"):
        settle(there, replace(stock, tasks=wrong), fetch)
