import datetime
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from evomerge.core.scoring_protocol import ItemRole, Manifest
from evomerge.core.work import TaskSettings
from evomerge.errors import SpecError
from evomerge.scoring.items import item_id, split_items

IDS = [item_id({"q": number}) for number in range(200)]


def settings(**changes):
    return TaskSettings(name="sums", task="sums", **changes)


def names(items, role):
    return [item.id for item in items if item.role == role]


def search(items):
    return names(items, ItemRole.SEARCH)


def report(items):
    return names(items, ItemRole.REPORT)


@given(
    st.lists(st.sampled_from(IDS), min_size=20),
    st.floats(0.3, 0.7),
    st.integers(1, 60),
    st.integers(1, 6),
)
def test_roles_are_disjoint_and_depend_on_content_alone(ids, fraction, limit, blocks):
    wanted = settings(search_fraction=fraction, limit=limit, n_blocks=blocks)
    everything = replace(wanted, limit=None)
    assume(set(ids) & set(search(split_items(everything, IDS))))
    items = split_items(wanted, ids)
    assert not set(search(items)) & set(report(items))
    assert len(items) <= limit
    assert items == split_items(wanted, [*reversed(ids), *ids])


@given(st.integers(1, 150), st.integers(0, 50), st.floats(0.05, 1.0))
def test_larger_limit_only_adds_items(limit, more, fraction):
    few = split_items(settings(limit=limit, search_fraction=fraction), IDS)
    many = split_items(settings(limit=limit + more, search_fraction=fraction), IDS)
    assert set(search(few)) <= set(search(many))
    assert set(report(few)) <= set(report(many))


def test_fraction_decides_how_many_items_are_searched_on():
    items = split_items(settings(search_fraction=0.25), IDS)
    assert 30 <= len(search(items)) <= 70
    assert len(items) == len(IDS)


def test_one_item_limit_leaves_an_item_to_search_on():
    items = split_items(settings(limit=1), IDS)
    assert len(search(items)) == 1
    assert not report(items)


def test_blocks_are_contiguous_and_even():
    items = split_items(settings(n_blocks=4, search_fraction=1.0), IDS[:10])
    manifest = Manifest("sums", items)
    blocks = manifest.blocks(ItemRole.SEARCH)
    assert [len(manifest.ids(block)) for block in blocks] == [3, 2, 3, 2]
    assert [i for block in blocks for i in manifest.ids(block)] == sorted(IDS[:10])


def test_fewer_items_than_blocks_make_no_empty_block():
    items = split_items(settings(n_blocks=8, search_fraction=1.0), IDS[:3])
    assert [item.block for item in items] == [0, 1, 2]


@pytest.mark.parametrize(
    ("n_items", "sizes"), [(9, [9]), (19, [19]), (20, [10, 10]), (45, [12, 11, 11, 11])]
)
def test_a_block_has_so_many_items_before_there_is_another(
    n_items: int, sizes: list[int]
) -> None:
    wanted = settings(n_blocks=4, block_items=10, search_fraction=1.0)
    ids = [f"{n:032x}" for n in range(n_items)]
    manifest = Manifest("sums", split_items(wanted, ids))
    blocks = manifest.blocks(ItemRole.SEARCH)
    assert [len(manifest.ids(block)) for block in blocks] == sizes


def test_explicit_items_are_taken_by_id_or_position():
    wanted = settings(search_items=("0", IDS[5]), report_items=("7",))
    items = split_items(wanted, IDS)
    assert set(search(items)) == {IDS[0], IDS[5]}
    assert report(items) == [IDS[7]]


def test_explicit_search_items_leave_the_rest_for_the_report():
    items = split_items(settings(search_items=("0", "1")), IDS)
    assert len(report(items)) == len(IDS) - 2


def test_explicit_item_that_does_not_exist_is_refused():
    with pytest.raises(SpecError, match=r"task sums: items.search: '200' is neither"):
        split_items(settings(search_items=("200",)), IDS)


def test_overlap_of_explicit_items_is_refused_with_an_example():
    wanted = settings(search_items=("0", "1"), report_items=("1",))
    with pytest.raises(SpecError, match=IDS[1]):
        split_items(wanted, IDS)


def test_equal_content_in_both_splits_is_refused():
    with pytest.raises(SpecError, match="both searched on and reported on"):
        split_items(settings(), IDS[:10], report_ids=IDS[9:20])


def test_splits_give_each_role_its_own_items():
    items = split_items(settings(limit=8), IDS[:10], report_ids=IDS[10:20])
    assert set(search(items)) <= set(IDS[:10])
    assert set(report(items)) <= set(IDS[10:20])
    assert (len(search(items)), len(report(items))) == (4, 4)


def test_few_shot_example_that_is_scored_is_refused():
    with pytest.raises(SpecError, match=r"task sums: items: 1 few-shot example"):
        split_items(settings(), IDS, examples={IDS[3], "not an item"})


def test_nothing_to_search_on_is_refused():
    with pytest.raises(SpecError, match="no items are left to search on"):
        split_items(settings(), [])


def test_name_of_a_question_ignores_key_order_and_accepts_odd_values():
    odd = {"t": datetime.date(2020, 1, 2), "b": b"\0", "n": float("nan")}
    odd |= {"a": np.float32(1.5)}
    assert item_id(odd) == item_id(dict(reversed(odd.items())))
    assert item_id(odd) != item_id(odd | {"b": b"\1"})


def test_question_without_stable_content_is_refused():
    with pytest.raises(TypeError, match="no stable content"):
        item_id({"image": object()})
