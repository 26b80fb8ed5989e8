"""Laws that every kind of data flow keeps."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.flows import blueprint_of, flows, space_of

from evomerge.core.flow.blueprint import Flow
from evomerge.core.flow.layer_pool import LayerPool, Step
from evomerge.core.flow.scales import Matrix, Scales, Scaling
from evomerge.core.flow.size import n_points
from evomerge.core.flow.stacks import passthrough

Drawn = tuple[LayerPool, Flow]
seeds = st.integers(0, 2**32 - 1)


@given(flows(), seeds)
def test_every_point_is_a_stack_within_bounds(drawn: Drawn, seed: int) -> None:
    stock, flow = drawn
    point = space_of(flow).random(np.random.default_rng(seed))
    steps = flow.steps(point)
    assert stock.shallowest <= len(steps) <= stock.deepest
    for step in steps:
        assert 0 <= step.index < dict(stock.sources)[step.source]
        assert step.scale > 0.0
    if stock.pinned:
        assert (steps[0].source, steps[0].index) == (stock.first, 0)
    if stock.pinned and stock.depth > 1:
        assert (steps[-1].source, steps[-1].index) == (stock.first, stock.depth - 1)


@given(flows(deepest=6))
def test_a_search_begins_with_the_first_source_as_it_stands(drawn: Drawn) -> None:
    stock, flow = drawn
    space = space_of(flow)
    start = space.start()
    space.check(start)
    assert flow.steps(start) == tuple(Step(stock.first, i) for i in range(stock.depth))
    recipe = blueprint_of(flow, stock).recipe(start)
    parent = passthrough(stock.first, f"fp-{stock.first}", stock.depth, "float32")
    assert recipe.digest == parent.digest


@given(flows(), seeds)
def test_random_points_belong_to_their_space(drawn: Drawn, seed: int) -> None:
    space = space_of(drawn[1])
    space.check(space.random(np.random.default_rng(seed)))


@given(flows())
def test_strands_hold_every_axis_once(drawn: Drawn) -> None:
    space = space_of(drawn[1])
    placed = [n for strand in space.strands for site in strand.sites for n in site]
    assert sorted(placed) == sorted(axis.name for axis in space.axes)
    assert all(site for strand in space.strands for site in strand.sites)


@settings(max_examples=60, deadline=None)
@given(flows(deepest=3, scaled=False))
def test_stacks_are_counted_exactly(drawn: Drawn) -> None:
    _, flow = drawn
    space = space_of(flow)
    size = n_points(space)
    assert size is not None
    assume(size <= 4000)
    stacks = [flow.steps(point) for point in space.points()]
    assert len(stacks) == size
    assert flow.n_stacks == len(set(stacks))


@given(flows(deepest=3), seeds)
def test_equal_stacks_are_equal_recipes(drawn: Drawn, seed: int) -> None:
    stock, flow = drawn
    space, rng = space_of(flow), np.random.default_rng(seed)
    blueprint = blueprint_of(flow, stock)
    digests: dict[tuple[Step, ...], set[str]] = {}
    for _ in range(12):
        point = space.random(rng)
        recipe = blueprint.recipe(point)
        digests.setdefault(blueprint.steps(point), set()).add(recipe.digest)
    assert all(len(found) == 1 for found in digests.values())
    assert len({d for found in digests.values() for d in found}) == len(digests)


@given(flows(), seeds)
def test_no_stack_has_more_of_some_layers_than_is_said(drawn: Drawn, seed: int) -> None:
    stock, flow = drawn
    rng = np.random.default_rng(seed)
    some = {step for step in stock.layers if rng.random() < 0.5}
    most = flow.most_of(some)
    assert most <= stock.deepest
    for _ in range(5):
        steps = flow.steps(space_of(flow).random(rng))
        assert sum(replace(step, scale=1.0) in some for step in steps) <= most


@given(flows(scaled=False), seeds)
def test_a_full_matrix_scales_every_layer_by_what_came_before(
    drawn: Drawn, seed: int
) -> None:
    stock, flow = drawn
    matrix = Matrix(stock, Scales(Scaling.FULL, 0.5, 2.0))
    blueprint = blueprint_of(flow, stock, matrix)
    rng = np.random.default_rng(seed)
    point = space_of(flow).random(rng)
    for site in matrix.sites:
        point |= {axis.name: axis.value(float(rng.random())) for axis in site}
    steps = blueprint.steps(point)
    assert steps[0].scale == 1.0
    for one, other in pairwise(steps):
        value = float(point[f"scale.{one.name}.{other.name}"])
        assert other.scale == pytest.approx(value, rel=1e-3)


def test_a_scale_next_to_one_is_one() -> None:
    scales = Scales(Scaling.LAYER, 0.5, 1.5)
    axis = scales.axis("scale.0")
    near = axis.value(axis.unit(1.0))
    assert near != 1.0
    assert scales.read("scale.0", {"scale.0": near}) == 1.0
    beside = axis.value(axis.unit(1.0) + 0.001)
    assert scales.read("scale.0", {"scale.0": beside}) == beside


def test_the_first_source_must_fit_the_bounds() -> None:
    with pytest.raises(ValueError, match="4 layers of 'a'"):
        LayerPool((("a", 4), ("b", 4)), 5, 8)
