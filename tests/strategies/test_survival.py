import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.strategies.base import Told
from evomerge.strategies.genetic.survival import (
    Crowded,
    Member,
    Referenced,
    directions,
    normalised,
    ranks,
)


def member(losses, missed=0.0):
    return Member({}, {}, tuple(losses), missed)


def rng():
    return np.random.default_rng(0)


small = st.integers(0, 4).map(float)
members = st.lists(
    st.builds(member, st.tuples(small, small), st.sampled_from([0.0, 0.0, 0.5, 1.0])),
    min_size=1,
    max_size=14,
)


def beats(a, b):
    """Constrained domination, by its definition."""
    if a.missed or b.missed:
        return a.missed < b.missed
    pairs = list(zip(a.losses, b.losses, strict=True))
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


@given(members)
def test_who_is_beaten_has_a_later_rank_than_some_beater_and_others_are_first(group):
    found = ranks(group)
    for i, b in enumerate(group):
        beaters = [found[j] for j, a in enumerate(group) if beats(a, b)]
        assert found[i] == (max(beaters) + 1 if beaters else 0)


def test_failed_candidates_are_no_members():
    assert Member.of({}, Told({}, None)) is None
    found = Member.of({"a": 1}, Told({"a": 1}, (2.0,), (-1.0, 0.5)))
    assert found == Member({"a": 1}, {"a": 1}, (2.0,), 0.5)


@given(members, st.integers(1, 14), st.sampled_from([Crowded(), Referenced(2, 6)]))
def test_survivors_are_never_worse_ranked_than_the_others(group, n, survival):
    kept = survival.survivors(rng(), group, n)
    assert len(kept) == min(n, len(group))
    rank = dict(zip(map(id, group), ranks(group), strict=True))
    worst = max(rank[id(m)] for m in kept)
    lost = [m for m in group if id(m) not in {id(k) for k in kept}]
    assert all(rank[id(m)] >= worst for m in lost)


def test_nsga2_keeps_the_ends_and_what_is_alone():
    xs = [0.0, 0.1, 0.11, 0.12, 0.5, 1.0]
    kept = Crowded().survivors(rng(), [member((x, 1 - x)) for x in xs], 4)
    assert sorted(m.losses[0] for m in kept) == [0.0, 0.12, 0.5, 1.0]


def test_nsga2_tournaments_compare_rank_then_crowding():
    group = [member((x, 1 - x)) for x in (0.0, 0.1, 0.5, 1.0)]
    keys = Crowded().keys([*group, member((2.0, 2.0))])
    assert keys[0] == (0.0, -math.inf)
    assert keys[2] < keys[1] < keys[4]


@pytest.mark.parametrize(
    ("m", "size", "n"), [(2, 24, 24), (3, 24, 21), (3, 91, 91), (4, 24, 20), (5, 3, 5)]
)
def test_directions_are_as_many_as_fit_and_sum_to_one(m, size, n):
    found = directions(m, size)
    assert found.shape == (n, m)
    assert found.sum(axis=1) == pytest.approx(1.0)
    assert len(np.unique(found, axis=0)) == n
    assert (found >= 0).all()


def test_a_scaled_front_is_made_even():
    plane = directions(3, 30)
    found = normalised(plane * [1.0, 100.0, 1e-3] + [5.0, -7.0, 0.0])
    assert found == pytest.approx(plane, abs=1e-4)


@pytest.mark.parametrize(
    "losses",
    [
        [[1.0, 1.0, 1.0]],
        [[0.0, 1.0, 2.0], [1.0, 0.0, 2.0]],  # no plane through these
        [[0.0, 1.0, 0.5], [0.0, 1.0, 0.5], [0.0, 1.0, 0.5]],
    ],
)
def test_losses_without_a_plane_are_scaled_by_their_range(losses):
    found = normalised(np.array(losses))
    assert np.isfinite(found).all()
    assert found.max() <= 1.0


def test_nsga3_keeps_one_of_every_direction():
    """A crowd at one corner and one member along each other direction."""
    lone = directions(3, 15)
    crowd = [member(np.array([1.0, 0.0, 0.0]) + e) for e in (1e-4 * np.eye(3)[1:])]
    crowd = [member((1.0 - 1e-3 * i, 1e-3 * i, 0.0)) for i in range(1, 12)]
    group = crowd + [member(row) for row in lone]
    kept = {m.losses for m in Referenced(3, 15).survivors(rng(), group, len(lone))}
    far = {tuple(row) for row in lone if row[0] < 0.8}
    assert far <= kept


def test_among_feasible_members_nsga3_has_no_favourites():
    group = [member((0.0, 0.0)), member((5.0, 5.0)), member((0.0, 0.0), 0.1)]
    keys = Referenced(2, 4).keys(group)
    assert keys[0] == keys[1] < keys[2]
