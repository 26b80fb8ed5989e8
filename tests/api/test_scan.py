"""A scan of blocks: compared on search items, judged on held-out ones, drawn."""

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support.study_files import simulated_study, write_study

import evomerge.api as api
from evomerge.api.models.held_out import COMPARED
from evomerge.api.results.reading import REPORT_OPENED
from evomerge.cli.app import app
from evomerge.core.study import Direction, Measure, Objective
from evomerge.errors import ExportError
from evomerge.export.heat_map import Heat, heat_map
from evomerge.export.item_scores import ItemScores
from evomerge.export.stats import best_of_many, swap_test
from evomerge.store.sql import open_store
from evomerge.testing.models import tiny_model

DEPTH = 4
N_BLOCKS = DEPTH * (DEPTH + 1) // 2


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scan")
    tiny_model(folder / "math", seed=1, n_layers=DEPTH)
    study = simulated_study(
        folder,
        name="scanned",
        sources={"math": str(folder / "math")},
        space={"flow": {"kind": "block", "sources": ["math"]}},
        strategy={"kind": "grid"},
        budget={"trials": N_BLOCKS + 1},
    )
    _search(folder, study)
    return folder


def _search(folder: Path, study: dict[str, object]) -> None:
    file = write_study(folder / f"{study['name']}.yaml", study)
    where = api.Where(1, None, True, cache_dir=folder / "cache")
    api.search(api.prepare(file, db=_db(folder), where=where))


def _db(folder: Path) -> str:
    return f"sqlite:///{folder / 'scan.db'}"


def test_every_block_is_compared_with_the_unchanged_model(place: Path) -> None:
    found = api.scan("scanned", db=_db(place))
    assert found.depth == DEPTH
    spans = {(block.first, block.layers) for block in found.blocks}
    assert spans == {(a, n) for a in range(DEPTH) for n in range(1, DEPTH - a + 1)}
    rows = {row.number: row for row in api.trials("scanned", db=_db(place))}
    (goal,) = found.blocks and {found.objective.name}
    for block in found.blocks:
        assert rows[block.trial].values[goal] == pytest.approx(block.value)
        assert block.difference == pytest.approx(block.value - found.unchanged)
    parent = next(row for row in rows.values() if row.label == "math")
    assert parent.values[goal] == pytest.approx(found.unchanged)
    values = [block.value for block in found.blocks]
    assert values == sorted(values, reverse=True)
    assert found.held_out is None


def test_only_the_chosen_few_and_the_unchanged_model_see_held_out_items(
    place: Path,
) -> None:
    before = api.scan("scanned", db=_db(place))
    found = api.scan("scanned", db=_db(place), held_out=2, cache_dir=place / "cache")
    assert [block.held_out is not None for block in found.blocks] == [
        *(True, True),
        *(False for _ in range(N_BLOCKS - 2)),
    ]
    assert [b.value for b in found.blocks] == [b.value for b in before.blocks]
    assert found.openings == 1
    for block in found.blocks[:2]:
        one = block.held_out
        assert one is not None
        assert one.difference.low <= one.difference.value <= one.difference.high
        assert one.p_value <= one.adjusted
    store = open_store(_db(place), create=False)
    try:
        stored = store.study("scanned")
        compared = store.events(stored.id, COMPARED)
        assert len(store.events(stored.id, REPORT_OPENED)) == 1
        assert {e.data["trial"] for e in compared} == {
            block.trial for block in found.blocks[:2]
        }
        report = {
            item.id
            for task in store.tasks(stored.id) or ()
            for item in task.manifest.items
            if item.role == "report"
        }
        seen = [
            trial.number
            for trial in store.trials(stored.id)
            if any(
                set(known) & report
                for known in store.outcomes_under(
                    trial.candidate.recipe.digest,
                    {t.protocol.digest for t in store.tasks(stored.id) or ()},
                ).values()
            )
        ]
    finally:
        store.close()
    digests = {
        row.recipe for row in api.trials("scanned", db=_db(place)) if row.number in seen
    }
    assert len(digests) == 3


def test_the_command_prints_a_table_and_draws_a_picture(
    place: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "blocks.svg"
    options = ["scan", "scanned", "--db", _db(place), "--svg", str(picture)]
    done = CliRunner().invoke(app, [*options, "--top", "3", "--held-out", "2"])
    assert done.exit_code == 0, done.output
    assert f"{N_BLOCKS} blocks scored" in done.stdout
    assert "Holm-adjusted" in done.stdout
    root = ET.fromstring(picture.read_text(encoding="utf-8"))
    cells = root.findall("{*}rect/{*}title")
    assert len(cells) == N_BLOCKS
    best = api.scan("scanned", db=_db(place)).blocks[0]
    said = f"{best.name} twice: {best.value:.3f} ({best.difference:+.3f})"
    assert said in [cell.text for cell in cells]


def test_a_study_of_something_else_is_refused(place: Path) -> None:
    tiny_model(place / "ja", seed=2, n_layers=DEPTH)
    study = simulated_study(
        place,
        name="weights",
        sources={name: str(place / name) for name in ("math", "ja")},
        space={"operator": "linear", "knobs": {"weight": "search"}},
    )
    _search(place, study)
    with pytest.raises(ExportError, match="does not scan blocks"):
        api.scan("weights", db=_db(place))
    with pytest.raises(ExportError, match="has no objective 'speed'"):
        api.scan("scanned", db=_db(place), objective="speed")


MEASURES = (Measure("one", "acc"), Measure("two", "acc"))
GOAL = Objective("skill", Direction.MAXIMIZE, MEASURES, (1.0, 1.0), 0.5)


def scores(rng: np.random.Generator, n: int, share: float) -> ItemScores:
    items = {t: tuple(f"{t}{i}" for i in range(n)) for t in ("one", "two")}
    columns = {str(m): (rng.random(n) < share).astype(float) for m in MEASURES}
    return ItemScores(items, columns)


def test_alone_a_candidate_is_judged_as_by_the_test_of_pairs() -> None:
    rng = np.random.default_rng(3)
    mine, theirs = scores(rng, 60, 0.7), scores(rng, 60, 0.5)
    (p,) = best_of_many(GOAL, [mine], theirs, rng, n_swaps=20_000)
    assert p == pytest.approx(swap_test(GOAL, mine, theirs, rng, 20_000), abs=0.01)


def test_among_many_equally_good_ones_the_best_is_seldom_called_better() -> None:
    rng = np.random.default_rng(5)
    n_false = 0
    for _ in range(60):
        theirs = scores(rng, 40, 0.5)
        many = [scores(rng, 40, 0.5) for _ in range(50)]
        n_false += min(best_of_many(GOAL, many, theirs, rng, n_swaps=300)) < 0.05
    assert n_false <= 8  # 3 are expected; uncorrected it would be nearly all


def test_losses_and_gains_have_scales_of_their_own_and_the_best_a_frame() -> None:
    cells = [Heat(0, 1, -0.5, "bad"), Heat(1, 1, 0.01, "good <b>", marked=True)]
    root = ET.fromstring(heat_map("a & b", "c", 2, cells))
    rects = {
        title.text: rect
        for rect in root.findall("{*}rect")
        for title in rect.findall("{*}title")
    }
    assert rects["bad"].get("fill-opacity") == "1.00"
    assert rects["good <b>"].get("fill-opacity") == "1.00"
    assert rects["good <b>"].get("fill") != rects["bad"].get("fill")
    assert rects["good <b>"].get("stroke-width") == "2"
    assert "up to +0.01 better" in [text.text for text in root.findall("{*}text")]
