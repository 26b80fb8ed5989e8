"""What single kinds of data flow do, in examples."""

from support.flows import space_of

from evomerge.core.flow.blocks import Blocks
from evomerge.core.flow.blueprint import Flow
from evomerge.core.flow.donors import Donors, Switches
from evomerge.core.flow.edits import Edits
from evomerge.core.flow.gates import Gates
from evomerge.core.flow.layer_pool import LayerPool
from evomerge.core.flow.scales import Scales, Scaling
from evomerge.core.flow.slices import Slices
from evomerge.core.space import AllOf, Condition
from evomerge.core.trial import Point

AB = LayerPool((("a", 4), ("b", 4)), 1, 8)
EVEN = LayerPool((("a", 4), ("b", 4)), 4, 4)


def names(flow: Flow, changes: Point) -> str:
    """Return what runs at the start of a space with a few changes."""
    point = {**space_of(flow).start(), **changes}
    return " ".join(f"{step.source}{step.index}" for step in flow.steps(point))


def test_gates_run_in_serial_order() -> None:
    assert names(Gates(AB), {"gate.a.2": 0, "gate.b.1": 1}) == "a0 a1 b1 a3"


def test_a_repeated_series_runs_layers_again() -> None:
    flow = Gates(AB, repeats=2)
    assert names(flow, {"gate.1.a.1": 1, "gate.1.b.0": 1}) == "a0 a1 a2 a1 b0 a3"
    assert names(flow, {"gate.1.a.3": 1, "gate.1.a.0": 1}) == "a0 a1 a2 a0 a3 a3"


def test_gates_without_pins_may_do_without_the_first_source() -> None:
    flow = Gates(LayerPool((("a", 2), ("b", 2)), 1, 4, pinned=False))
    off = {"gate.a.0": 0, "gate.a.1": 0}
    assert names(flow, {**off, "gate.b.1": 1}) == "b1"
    assert names(flow, off) == "a0"


def test_gates_are_opened_or_closed_to_keep_the_bounds() -> None:
    flow = Gates(LayerPool((("a", 4), ("b", 4)), 4, 5))
    on = {f"gate.b.{i}": 1 for i in range(4)}
    assert names(flow, on) == "a0 a1 a2 b0 a3"
    assert names(flow, {"gate.a.1": 0, "gate.a.2": 0, "gate.b.2": 1}) == "a0 a1 b2 a3"


def test_a_scale_of_a_gate_exists_while_the_gate_is_open() -> None:
    space = space_of(Gates(AB, scales=Scales(Scaling.LAYER)))
    axes = {axis.name: axis for axis in space.axes}
    assert axes["scale.b.1"].when == Condition("gate.b.1", (1,))
    assert axes["scale.first"].when is None


def test_a_scale_of_a_jump_exists_while_the_jump_is_made() -> None:
    flow = Gates(AB, scales=Scales(Scaling.EDGE))
    axes = {axis.name: axis for axis in space_of(flow).axes}
    assert "scale.a.1.a.2" not in axes
    assert axes["scale.a.1.b.0"].when == AllOf(
        (
            Condition("gate.a.1", (1,)),
            Condition("gate.a.2", (0,)),
            Condition("gate.b.0", (1,)),
        )
    )
    point = {**space_of(flow).start(), "gate.a.2": 0, "gate.b.0": 1}
    jumps = {"scale.a.1.b.0": 0.5, "scale.b.0.last": 2.0}
    steps = flow.steps({**point, **jumps})
    assert [step.scale for step in steps] == [1.0, 1.0, 0.5, 2.0]


def test_edits_speak_of_the_layers_as_they_were() -> None:
    flow = Edits(AB, 3)
    skip = {"edit.0.kind": "skip", "edit.0.at": 1}
    assert names(flow, skip) == "a0 a2 a3"
    insert = {"edit.1.kind": "insert", "edit.1.before": 2}
    insert |= {"edit.1.source": "b", "edit.1.layer": 3}
    assert names(flow, {**skip, **insert}) == "a0 b3 a2 a3"
    swap = {"edit.2.kind": "swap", "edit.2.at": 2}
    swap |= {"edit.2.source": "b", "edit.2.layer": 0}
    assert names(flow, {**skip, **insert, **swap}) == "a0 b3 b0 a3"


def test_edits_can_cancel() -> None:
    flow = Edits(AB, 2)
    one = {"edit.0.kind": "skip", "edit.0.at": 1}
    other = {"edit.1.kind": "repeat", "edit.1.at": 1}
    assert names(flow, {**one, **other}) == names(flow, {}) == "a0 a1 a2 a3"


def test_a_swapped_layer_is_repeated_as_it_became() -> None:
    flow = Edits(AB, 2, Scales(Scaling.LAYER))
    swap = {"edit.0.kind": "swap", "edit.0.at": 1, "edit.0.scale": 0.5}
    swap |= {"edit.0.source": "b", "edit.0.layer": 2}
    again = {"edit.1.kind": "repeat", "edit.1.at": 1, "edit.1.scale": 2.0}
    steps = flow.steps({**space_of(flow).start(), **swap, **again})
    assert [step.name for step in steps] == ["a.0", "b.2", "b.2", "a.2", "a.3"]
    assert [step.scale for step in steps] == [1.0, 0.5, 2.0, 1.0, 1.0]


def test_the_last_edits_are_left_out_where_the_bounds_are_broken() -> None:
    flow = Edits(LayerPool((("a", 4), ("b", 4)), 3, 4), 2)
    skips = {"edit.0.kind": "skip", "edit.0.at": 1}
    skips |= {"edit.1.kind": "skip", "edit.1.at": 2}
    assert names(flow, skips) == "a0 a2 a3"


def test_sources_of_other_depths_have_axes_of_their_own() -> None:
    flow = Edits(LayerPool((("a", 4), ("b", 4), ("c", 2)), 1, 8), 1)
    axes = {axis.name: axis for axis in space_of(flow).axes}
    assert axes["edit.0.layer.of4"].when == Condition("edit.0.source", ("a", "b"))
    assert axes["edit.0.layer.of2"].when == Condition("edit.0.source", ("c",))


def test_donors_keep_the_place() -> None:
    assert names(Donors(EVEN), {"donor.2": "b"}) == "a0 a1 b2 a3"


def test_a_change_of_donor_has_a_scale_of_its_own() -> None:
    flow = Donors(EVEN, Scales(Scaling.EDGE))
    point = {**space_of(flow).start(), "donor.2": "b"}
    point |= {"scale.a.1.b.2": 0.5, "scale.b.2.a.3": 2.0}
    space_of(flow).check(point)
    assert [step.scale for step in flow.steps(point)] == [1.0, 1.0, 0.5, 2.0]


def test_switches_are_taken_in_order_of_depth() -> None:
    flow = Switches(LayerPool((("a", 6), ("b", 6)), 6, 6), 2)
    donors = {"donor.1": "b"}
    assert names(flow, {**donors, "switch.1": 2, "switch.2": 4}) == "a0 a1 b2 b3 a4 a5"
    assert names(flow, {**donors, "switch.1": 4, "switch.2": 2}) == "a0 a1 b2 b3 a4 a5"
    assert names(flow, {**donors, "switch.1": 3, "switch.2": 3}) == "a0 a1 a2 a3 a4 a5"


def test_slices_end_with_their_source() -> None:
    flow = Slices(AB, 2)
    more = {"slice.1.layers": 3, "slice.1.source": "b", "slice.1.first": 2}
    assert names(flow, more) == "a0 a1 a2 b2 b3 a3"


def test_slices_are_cut_where_too_deep_and_replaced_where_too_shallow() -> None:
    flow = Slices(LayerPool((("a", 4), ("b", 4)), 3, 5), 2)
    more = {"slice.1.layers": 3, "slice.1.source": "b", "slice.1.first": 0}
    assert names(flow, more) == "a0 a1 a2 b0 a3"
    assert names(flow, {"slice.0.layers": 0}) == "a0 a1 a2 a3"


def test_depth_up_scaling_is_a_point_of_slices() -> None:
    flow = Slices(LayerPool((("a", 4),), 1, 8, pinned=False), 2)
    twice = {"slice.0.layers": 3, "slice.0.first": 0}
    twice |= {"slice.1.layers": 3, "slice.1.first": 1}
    assert names(flow, twice) == "a0 a1 a2 a1 a2 a3"


def test_a_slice_that_goes_on_where_the_last_ended_has_no_scale() -> None:
    flow = Slices(AB, 2, Scales(Scaling.EDGE))
    point = {**space_of(flow).start(), "slice.0.layers": 1, "slice.1.layers": 1}
    point |= {"slice.1.source": "a", "slice.1.first": 2, "slice.1.scale": 0.5}
    assert [step.scale for step in flow.steps(point)] == [1.0] * 4
    point["slice.1.source"] = "b"
    assert [step.scale for step in flow.steps(point)] == [1.0, 1.0, 0.5, 1.0]


def test_a_block_runs_again_behind_itself() -> None:
    flow = Blocks(LayerPool((("a", 4),), 1, 8), 1, 2)
    assert names(flow, {}) == "a0 a1 a2 a3"
    again = {"block.first": 1, "block.layers": 2}
    assert names(flow, again) == "a0 a1 a2 a1 a2 a3"
    whole = {"block.first": 0, "block.layers": 4}
    assert names(flow, whole) == "a0 a1 a2 a3 a0 a1 a2 a3"
    assert names(flow, {"block.first": 3, "block.layers": 4}) == "a0 a1 a2 a3 a3"


def test_a_block_is_no_longer_than_the_depth_allows() -> None:
    flow = Blocks(LayerPool((("a", 4),), 1, 6), 1, 4)
    point = {"block.first": 1, "block.layers": 3, "block.times": 2}
    assert names(flow, point) == "a0 a1 a2 a1 a2 a3"
    assert names(flow, {**point, "block.times": 3}) == "a0 a1 a1 a1 a2 a3"
    assert names(flow, {**point, "block.times": 4}) == "a0 a1 a2 a3"


def test_a_second_block_begins_behind_the_first() -> None:
    flow = Blocks(LayerPool((("a", 4),), 1, 8), 2, 2)
    point = {"block.0.first": 2, "block.0.layers": 1}
    assert names(flow, point) == "a0 a1 a2 a2 a3"
    more = {**point, "block.1.first": 1, "block.1.layers": 3}
    assert names(flow, more) == "a0 a1 a2 a3 a1 a2 a3"
    apart = {**point, "block.1.first": 0, "block.1.layers": 1}
    assert names(flow, apart) == "a0 a0 a1 a2 a2 a3"


def test_thirty_layers_have_465_blocks() -> None:
    flow = Blocks(LayerPool((("a", 30),), 15, 60), 1, 2)
    assert flow.n_stacks == 1 + 465  # none is one of them
