"""The self-test of stacks sees what could go wrong unnoticed."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from evomerge.errors import SelfTestError
from evomerge.scoring.engine import Engine
from evomerge.scoring.engines import open_engine
from evomerge.scoring.hf.layer_slots import HfLayerSlots, Step
from evomerge.scoring.stacks.slots import Place
from evomerge.testing.stacked import Family

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(tmp_path_factory.mktemp("parents")).write()


@pytest.fixture
def engine(parents: Family) -> Iterator[Engine]:
    engine = open_engine(parents.setup("hf"))
    yield engine
    engine.close()


def test_sound_engine_passes_and_its_cold_measurement_is_kept(
    engine: Engine, parents: Family
) -> None:
    found = engine.self_test()
    assert (found.probe_difference, found.return_difference) == (0.0, 0.0)
    cache = parents.folder / "cache"
    (kept,) = (cache / "self_test").glob("*.json")
    written = kept.stat().st_mtime_ns
    assert engine.self_test().probe_difference == 0.0
    assert kept.stat().st_mtime_ns == written
    assert not list(cache.glob("tmp*"))  # the folder it was loaded from is gone


def test_layers_in_another_order_are_seen(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrange = HfLayerSlots.arrange

    def backwards(rack: HfLayerSlots, places: Sequence[Place]) -> None:
        arrange(rack, places[::-1])

    monkeypatch.setattr(HfLayerSlots, "arrange", backwards)
    with pytest.raises(SelfTestError, match="a stack of layers, swapped in, differs"):
        engine.self_test()


def test_scales_that_are_ignored_are_seen(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = Step.__init__
    monkeypatch.setattr(
        Step, "__init__", lambda step, layer, index, _: init(step, layer, index, 1.0)
    )
    with pytest.raises(SelfTestError, match="scales would be ignored"):
        engine.self_test()


def test_stale_weights_of_a_slot_are_seen(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = HfLayerSlots.write

    def lossy(rack: HfLayerSlots, incoming: Any, targets: Any) -> None:
        loader = rack._loader
        put = loader.put
        lost = "model.layers.5.mlp.down_proj.weight"
        with monkeypatch.context() as patch:
            patch.setattr(loader, "put", lambda n, t: None if n == lost else put(n, t))
            write(rack, incoming, targets)

    monkeypatch.setattr(HfLayerSlots, "write", lossy)
    with pytest.raises(SelfTestError, match="differs from its cold"):
        engine.self_test()
