"""Samples of blocks: what a generation answers, and what follows from it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.core.sample import Sample
from evomerge.core.scoring_protocol import (
    Item,
    ItemRole,
    Manifest,
    Outcome,
    ScoringProtocol,
    TaskDescription,
    errors_of,
    scores_of,
)
from evomerge.core.study import Direction, Measure, Objective


def task(name: str, n_blocks: int, per_block: int = 2) -> TaskDescription:
    items = [
        Item(f"{name}{block}-{place}", role, block)
        for role, n in ((ItemRole.SEARCH, n_blocks), (ItemRole.REPORT, 1))
        for block in range(n)
        for place in range(per_block)
    ]
    manifest = Manifest(name, tuple(items))
    return TaskDescription(manifest, ScoringProtocol(name, {}), ("acc",))


SIZES = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]), st.integers(1, 40), min_size=1
)


@given(SIZES, st.floats(0.01, 1.0), st.integers(0, 2**40), st.integers(1, 500))
def test_a_sample_has_of_every_task_the_share_rounded_up(
    sizes: dict[str, int], share: float, seed: int, generation: int
) -> None:
    tasks = [task(name, n) for name, n in sizes.items()]
    drawn = dict(Sample.draw(tasks, share, seed, generation).blocks)
    assert drawn.keys() == sizes.keys()
    for name, n in sizes.items():
        indices = drawn[name]
        assert len(indices) == math.ceil(round(share * n, 9)) >= 1
        assert list(indices) == sorted({*indices} & {*range(n)})


@given(SIZES, st.floats(0.01, 1.0), st.integers(0, 2**40), st.integers(1, 500))
def test_a_sample_of_a_task_follows_from_seed_generation_and_that_task_alone(
    sizes: dict[str, int], share: float, seed: int, generation: int
) -> None:
    tasks = [task(name, n) for name, n in sizes.items()]
    drawn = Sample.draw(tasks, share, seed, generation)
    assert Sample.draw(tasks[::-1], share, seed, generation) == drawn
    for one in tasks:
        alone = Sample.draw([one], share, seed, generation).blocks
        assert alone[0] in drawn.blocks


def test_generations_and_seeds_draw_all_blocks_alike() -> None:
    tasks = [task("a", 10)]
    drawn = [
        index
        for seed in range(20)
        for generation in range(1, 101)
        for index in Sample.draw(tasks, 0.2, seed, generation).blocks[0][1]
    ]
    counts = [drawn.count(index) for index in range(10)]
    assert sum(counts) == 4000
    # 400 each; a count varies by the root of 2000 * 0.2 * 0.8.
    assert all(abs(n - 400) < 5 * math.sqrt(320) for n in counts)


def test_the_draw_is_what_it_was() -> None:
    drawn = Sample.draw([task("a", 10), task("b", 4)], 0.3, 7, 1)
    assert drawn.to_json() == {"a": DRAWN_A, "b": DRAWN_B}


DRAWN_A, DRAWN_B = [3, 4, 5], [1, 3]


def test_a_tenth_of_thirty_blocks_is_three() -> None:
    (one,) = Sample.draw([task("a", 30)], 0.1, 0, 1).blocks
    assert len(one[1]) == 3


def test_tasks_of_a_sample_keep_their_names_blocks_and_held_out_items() -> None:
    whole = task("a", 5)
    (some,) = Sample((("a", (1, 4)),)).of([whole])
    assert [b.index for b in some.manifest.blocks(ItemRole.SEARCH)] == [1, 4]
    assert some.manifest.ids_of(ItemRole.SEARCH) == ("a1-0", "a1-1", "a4-0", "a4-1")
    assert some.manifest.ids_of(ItemRole.REPORT) == whole.manifest.ids_of(
        ItemRole.REPORT
    )
    assert some.protocol == whole.protocol


@given(SIZES, st.integers(1, 9))
def test_a_sample_comes_back_from_its_plain_form(
    sizes: dict[str, int], generation: int
) -> None:
    drawn = Sample.draw([task(n, k) for n, k in sizes.items()], 0.3, 1, generation)
    assert Sample.from_json(drawn.to_json()) == drawn


@pytest.mark.parametrize("wrong", [{"a": 3}, {"a": [1.5]}, {"a": ["0"]}, {"a": None}])
def test_what_is_no_sample_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(TypeError, match="the blocks of task 'a' are"):
        Sample.from_json(wrong)


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=40))
def test_the_error_of_a_mean_is_that_of_its_items(values: list[float]) -> None:
    one = task("a", 1, len(values))
    ids = one.manifest.ids_of(ItemRole.SEARCH)
    known = {"a": {i: Outcome(i, {"acc": v}) for i, v in zip(ids, values, strict=True)}}
    mean = scores_of([one], known)["a/acc"]
    error = errors_of([one], known)["a/acc"]
    n = len(values)
    assert error == pytest.approx(math.sqrt(mean * (1 - mean) / (n - 1)))


def test_a_mean_over_one_item_has_no_error() -> None:
    one = task("a", 1, 1)
    known = {"a": {"a0-0": Outcome("a0-0", {"acc": 1.0})}}
    assert errors_of([one], known) == {}


def test_the_error_of_an_objective_adds_tasks_apart_and_measures_of_one_together() -> (
    None
):
    measures = (Measure("a", "acc"), Measure("a", "f1"), Measure("b", "acc"))
    scores = {"a/acc": 0.5, "a/f1": 0.6, "b/acc": 0.2}
    errors = {"a/acc": 0.1, "a/f1": 0.2, "b/acc": 0.4}
    goal = Objective("g", Direction.MAXIMIZE, measures, (1.0, 1.0, 2.0), worst=0.5)
    from_a, from_b = 0.25 * 0.1 + 0.25 * 0.2, (0.5 + 0.5) * 0.4
    assert goal.error(scores, errors) == pytest.approx(math.hypot(from_a, from_b))
    assert goal.error(scores, {"a/acc": 0.1}) is None
