import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.core.space import (
    AllOf,
    ChoiceAxis,
    Condition,
    FloatAxis,
    IntAxis,
    SearchSpace,
    Strand,
)
from evomerge.errors import SpaceError

unit = st.floats(0, 1)


@st.composite
def float_axes(draw, name="a"):
    if draw(st.booleans()):
        low = draw(st.floats(1e-6, 1.0))
        return FloatAxis(name, low, low * draw(st.floats(1.5, 1e4)), log=True)
    low = draw(st.integers(-50, 50)) / 10
    width = draw(st.integers(1, 100)) / 10
    grid = draw(st.sampled_from([None, 0.1, 0.05]))
    return FloatAxis(name, low, low + width, grid=grid)


@st.composite
def int_axes(draw, name="a"):
    low = draw(st.integers(-100, 100))
    return IntAxis(name, low, low + draw(st.integers(0, 300)))


number_axes = st.one_of(float_axes(), int_axes())

TREE = SearchSpace(
    (
        ChoiceAxis("method", ("linear", "ties", "dare")),
        FloatAxis("density", 0.1, 1.0, when=Condition("method", ("ties", "dare"))),
        ChoiceAxis("rescale", (True, False), when=Condition("method", ("dare",))),
        FloatAxis("p", 0.0, 1.0, when=Condition("rescale", (True,))),
    )
)


@given(number_axes, unit)
def test_a_value_of_an_axis_is_within_its_range(axis, u):
    assert axis.low <= axis.value(u) <= axis.high


@given(number_axes, unit)
def test_rounding_a_rounded_value_changes_nothing(axis, u):
    value = axis.value(u)
    assert axis.value(axis.unit(value)) == value


@given(number_axes, unit)
def test_the_coordinate_of_a_value_is_in_the_unit_box(axis, u):
    assert -1e-12 <= axis.unit(axis.value(u)) <= 1 + 1e-12


@given(number_axes, unit, unit)
def test_larger_coordinates_never_give_smaller_values(axis, u, v):
    u, v = sorted((u, v))
    assert axis.value(u) <= axis.value(v)


@given(number_axes)
def test_the_ends_of_the_unit_box_are_the_ends_of_the_range(axis):
    low, high = axis.value(0.0), axis.value(1.0)
    assert low == pytest.approx(axis.low, rel=1e-5)
    # A grid need not divide the range; its last value is then within half a step.
    step = axis.grid if isinstance(axis, FloatAxis) and axis.grid else 0
    assert abs(high - axis.high) <= step / 2 + 1e-5 * abs(axis.high)


@given(unit)
def test_float_values_stay_readable(u):
    assert len(repr(FloatAxis("a", 0.0, 1.0).value(u))) <= 5  # three decimals
    assert len(repr(FloatAxis("a", -1.0, 1.0, grid=0.1).value(u))) <= 4


def test_whole_numbers_own_equal_shares():
    axis = IntAxis("n", 2, 5)
    shares = np.linspace(0, 1, 4001)[:-1]
    counts = np.bincount([axis.value(float(u)) for u in shares])
    assert counts[2:].tolist() == [1000, 1000, 1000, 1000]


def test_logarithmic_axes_are_even_in_the_logarithm():
    axis = FloatAxis("rate", 1e-4, 1.0, log=True)
    assert axis.value(0.5) == pytest.approx(1e-2)
    assert axis.value(0.25) == pytest.approx(1e-3)


@given(st.lists(number_axes, min_size=1, max_size=6), st.data())
def test_encode_undoes_decode(axes, data):
    named = tuple(
        type(axis)(f"a{i}", axis.low, axis.high, **_rest(axis))
        for i, axis in enumerate(axes)
    )
    space = SearchSpace(named)
    vector = np.array([data.draw(unit) for _ in axes])
    point = space.decode(vector)
    space.check(point)
    again = np.clip(space.encode(point), 0.0, 1.0)
    assert space.decode(again) == point


def _rest(axis):
    return {"log": axis.log, "grid": axis.grid} if isinstance(axis, FloatAxis) else {}


@given(st.integers(0, 2**32))
def test_random_points_belong_to_the_space(seed):
    TREE.check(TREE.random(np.random.default_rng(seed)))


def test_switched_off_axes_do_not_shift_the_stream():
    tail = FloatAxis("tail", 0.0, 1.0)
    space = SearchSpace((*TREE.axes, tail))
    for seed in range(20):
        last = np.random.default_rng(seed).random(len(space.axes))[-1]
        drawn = space.random(np.random.default_rng(seed))["tail"]
        assert drawn == tail.value(last)


def test_the_start_uses_declared_starts_and_middles():
    space = SearchSpace(
        (
            FloatAxis("a", 0.0, 2.0),
            FloatAxis("b", 0.0, 2.0, start=0.25),
            IntAxis("c", 0, 10, start=7),
            ChoiceAxis("d", ("x", "y"), start="y"),
            FloatAxis("e", 0.0, 1.0, when=Condition("d", ("x",))),
        )
    )
    assert space.start() == {"a": 1.0, "b": 0.25, "c": 7, "d": "y"}
    space.check(space.start())


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({}, "'method' is missing"),
        ({"method": "slerp"}, "'method' cannot be 'slerp'"),
        ({"method": "linear", "density": 0.5}, "'density' is not active"),
        ({"method": "ties"}, "'density' is missing"),
        ({"method": "ties", "density": 2.0}, "'density' cannot be 2.0"),
        ({"method": "ties", "density": math.nan}, "'density' cannot be nan"),
        ({"method": "ties", "density": "half"}, "'density' cannot be 'half'"),
        ({"method": "linear", "typo": 1}, "'typo' is no axis"),
    ],
)
def test_points_that_do_not_belong_are_refused_by_name(point, message):
    with pytest.raises(SpaceError, match=message):
        TREE.check(point)


def test_every_fault_of_a_point_is_named_at_once():
    with pytest.raises(SpaceError) as caught:
        TREE.check({"method": "dare", "typo": 1})
    for name in ("typo", "density", "rescale"):
        assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.zeros(3), r"shape \(2,\)"),
        (np.array([0.5, np.nan]), "'b' is outside"),
        (np.array([1.5, 0.5]), "'a' is outside"),
    ],
)
def test_vectors_outside_the_unit_box_are_refused(vector, message):
    space = SearchSpace((FloatAxis("a", 0.0, 1.0), IntAxis("b", 0, 3)))
    with pytest.raises(SpaceError, match=message):
        space.decode(vector)


def test_a_space_with_choices_has_no_unit_box():
    assert not TREE.is_numeric
    with pytest.raises(SpaceError, match="Only a space of numbers"):
        TREE.decode(np.zeros(4))


GATES = SearchSpace(
    (
        IntAxis("a", 0, 1),
        IntAxis("b", 0, 1),
        FloatAxis("of_a", 0.0, 1.0, start=0.3, when=Condition("a", (1,))),
        FloatAxis(
            "of_both",
            1.0,
            4.0,
            log=True,
            when=AllOf((Condition("a", (1,)), Condition("b", (1,)))),
        ),
    )
)


@given(st.lists(unit, min_size=4, max_size=4))
def test_numbers_that_come_and_go_have_a_unit_box(vector):
    point = GATES.decode(np.array(vector))
    GATES.check(point)
    assert ("of_both" in point) == (point["a"] == point["b"] == 1)
    assert GATES.decode(np.clip(GATES.encode(point), 0.0, 1.0)) == point


def test_a_number_that_is_not_there_is_encoded_as_its_start():
    assert GATES.encode({"a": 0, "b": 1}).tolist() == [0.25, 0.75, 0.3, 0.5]


def test_axes_are_unique_and_conditions_point_backwards():
    with pytest.raises(SpaceError, match="twice"):
        SearchSpace((IntAxis("a", 0, 1), IntAxis("a", 0, 1)))
    guarded = FloatAxis("a", 0.0, 1.0, when=Condition("b", (1,)))
    with pytest.raises(SpaceError, match="must stand before"):
        SearchSpace((guarded, IntAxis("b", 0, 1)))


def test_an_axis_may_need_several_choices_at_once():
    both = AllOf((Condition("a", (1,)), Condition("b", (1,))))
    axes = (IntAxis("a", 0, 1), IntAxis("b", 0, 1), FloatAxis("s", 0, 1, when=both))
    space = SearchSpace(axes)

    space.check({"a": 1, "b": 1, "s": 0.5})
    space.check({"a": 1, "b": 0})
    with pytest.raises(SpaceError, match="'s' is not active"):
        space.check({"a": 1, "b": 0, "s": 0.5})
    with pytest.raises(SpaceError, match="depends on 'b'"):
        SearchSpace((axes[0], axes[2], axes[1]))


@pytest.mark.parametrize("site", [("a", "a"), ("c",)])
def test_a_strand_names_axes_of_the_space_once(site):
    with pytest.raises(SpaceError, match="strand"):
        SearchSpace((IntAxis("a", 0, 1),), strands=(Strand((site,)),))
