"""Kinds of data flow over small sources, drawn at random or named, for tests."""

from __future__ import annotations

from hypothesis import strategies as st

from evomerge.core.blueprint import MergeBlueprint
from evomerge.core.flow.blocks import Blocks
from evomerge.core.flow.blueprint import Flow, FlowBlueprint
from evomerge.core.flow.donors import Donors, Switches
from evomerge.core.flow.edits import Edits
from evomerge.core.flow.gates import Gates
from evomerge.core.flow.layer_pool import LayerPool
from evomerge.core.flow.scales import Matrix, Scales, Scaling
from evomerge.core.flow.slices import Slices
from evomerge.core.recipes.recipe import Checkpoint
from evomerge.core.space import SearchSpace, Strand

KINDS = ("gates", "edits", "donors", "switches", "slices", "block")
_ALLOWED = {
    "gates": (Scaling.NONE, Scaling.LAYER, Scaling.EDGE),
    "edits": (Scaling.NONE, Scaling.LAYER),
    "donors": (Scaling.NONE, Scaling.LAYER, Scaling.EDGE),
    "switches": (Scaling.NONE, Scaling.LAYER, Scaling.EDGE),
    "slices": (Scaling.NONE, Scaling.EDGE),
    "block": (Scaling.NONE,),
}


@st.composite
def flows(
    draw: st.DrawFn, *, deepest: int = 4, scaled: bool = True
) -> tuple[LayerPool, Flow]:
    """Draw a stock of one to three sources, and a kind of data flow over it.

    Args:
        draw: Given by hypothesis.
        deepest: Layers of the deepest source.
        scaled: There may be scales.
    """
    kind = draw(st.sampled_from(KINDS))
    same = kind in ("donors", "switches")
    depth = draw(st.integers(1, deepest))
    others = st.just(depth) if same else st.integers(1, deepest)
    n_others = 0 if kind == "block" else 2
    depths = [depth, *draw(st.lists(others, max_size=n_others))]
    low = depth if same else draw(st.integers(1, depth))
    high = depth if same else depth + draw(st.integers(0, 3))
    stock = LayerPool(
        tuple((name, n) for name, n in zip("abc", depths, strict=False)),
        low,
        high,
        draw(st.booleans()),
    )
    usual = draw(st.sampled_from(_ALLOWED[kind])) if scaled else Scaling.NONE
    scales = Scales(usual, draw(st.sampled_from([0.5, 0.7])), 2.0)
    return stock, draw(_of_kind(kind, stock, scales))


def _of_kind(kind: str, stock: LayerPool, scales: Scales) -> st.SearchStrategy[Flow]:
    few = st.integers(1, 2)
    if kind == "gates":
        return few.map(lambda n: Gates(stock, n, scales))
    if kind == "edits":
        return few.map(lambda n: Edits(stock, n, scales))
    if kind == "slices":
        return few.map(lambda n: Slices(stock, n, scales))
    if kind == "block":
        return st.builds(Blocks, st.just(stock), few, st.integers(2, 3))
    if kind == "switches" and len(stock.inner) > 1:
        most = st.integers(1, min(2, len(stock.inner) - 1))
        return most.map(lambda n: Switches(stock, n, scales))
    return st.just(Donors(stock, scales))


def space_of(flow: Flow) -> SearchSpace:
    """Return the search space of a data flow alone."""
    sites = [site for strand in flow.strands for site in strand]
    return SearchSpace(
        tuple(axis for site in sites for axis in site),
        tuple(
            Strand(tuple(tuple(axis.name for axis in site) for site in strand))
            for strand in flow.strands
        ),
    )


def blueprint_of(
    flow: Flow,
    stock: LayerPool,
    matrix: Matrix | None = None,
    merge: MergeBlueprint | None = None,
) -> FlowBlueprint:
    """Return a blueprint over made-up sources, embedding and head the first's."""
    names = [name for name in stock.names if merge is None or name != "merge"]
    return FlowBlueprint(
        frame=names[0],
        dtype="float32",
        inputs={name: Checkpoint(f"fp-{name}") for name in names},
        flow=flow,
        embed=stock.first,
        head=stock.first,
        matrix=matrix,
        merge=merge,
    )
