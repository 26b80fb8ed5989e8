"""A written space with a flow to axes and a blueprint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from evomerge import plugins
from evomerge.core.blueprint import Coordinate, MergeBlueprint, Term
from evomerge.core.flow.blocks import Blocks
from evomerge.core.flow.blueprint import MERGE, Flow, FlowBlueprint
from evomerge.core.flow.donors import Donors, Switches
from evomerge.core.flow.edits import Edits
from evomerge.core.flow.gates import Gates
from evomerge.core.flow.layer_pool import LayerPool
from evomerge.core.flow.scales import Matrix, Scales, Scaling
from evomerge.core.flow.slices import Slices
from evomerge.core.nearest import did_you_mean, suggestion
from evomerge.core.space import Axis, Blueprint, ChoiceAxis, SearchSpace, Strand
from evomerge.errors import PluginError
from evomerge.specs.planning.planned import PlannedSpace, Setting
from evomerge.specs.planning.planner import plan_space
from evomerge.specs.reading.mistakes import Mistakes
from evomerge.specs.schema.space import FlowSpec, SpaceSpec

Depths = Sequence[int]
"""Layers of each source, in order."""


@dataclass(frozen=True, slots=True)
class FlowKind:
    """What the planner knows of a kind of data flow.

    Attributes:
        make: Makes it of layers, the counts and scales; None is the class that it is
            said in, of another package.
        scales: The scales that it may have.
        counts: The keys that say how much of it there is, and what each is if not
            written.
        reach: Most layers it can make, of the sources' depths and the counts; None if
            it keeps the number of layers.
        is_paired: Scales at its edges are one for each pair of layers.
        is_of_one: It takes layers of one source only.
    """

    make: Callable[..., Flow] | None = None
    scales: tuple[str, ...] = ("none",)
    counts: Mapping[str, int] = field(default_factory=dict)
    reach: Callable[..., int] | None = None
    is_paired: bool = False
    is_of_one: bool = False

    @property
    def keeps_depth(self) -> bool:
        """Tell whether every stack has as many layers as the sources."""
        return self.reach is None


def _switches(stock: LayerPool, most: int, scales: Scales) -> Flow:
    n_inner = len(stock.inner)
    if n_inner < 2:
        return Donors(stock, scales)  # there is no place between them to switch at
    return Switches(stock, min(most, n_inner - 1), scales)


KINDS: Mapping[str, FlowKind] = {
    "gates": FlowKind(
        Gates,
        ("none", "layer", "edge", "full"),
        {"repeats": 1},
        lambda depths, repeats: repeats * sum(depths),
        is_paired=True,
    ),
    "edits": FlowKind(
        Edits,
        ("none", "layer", "full"),
        {"edits": 4},
        lambda depths, edits: depths[0] + edits,
    ),
    "donors": FlowKind(Donors, ("none", "layer", "edge", "full")),
    "switches": FlowKind(_switches, ("none", "layer", "edge", "full"), {"switches": 2}),
    "slices": FlowKind(
        Slices,
        ("none", "edge", "full"),
        {"slices": 3},
        lambda depths, slices: slices * max(depths) + 2,
    ),
    "block": FlowKind(
        Blocks,
        ("none",),
        {"blocks": 1, "times": 2},
        lambda depths, _, times: depths[0] * times,
        is_of_one=True,
    ),
}


def flow_kind(name: str) -> FlowKind | None:
    """Return a kind of data flow, perhaps of another package; None if there is none.

    Raises:
        PluginError: Its package may not be loaded, or it is no such kind.
    """
    if name in KINDS:
        return KINDS[name]
    part = plugins.find("flows", name)
    if part is not None and not isinstance(getattr(part, "kind", None), FlowKind):
        raise PluginError(
            f"{name!r} is no data flow: expected a class with `kind`, a FlowKind, that "
            "is made of a LayerPool, the counts and Scales."
        )
    return None if part is None else replace(part.kind, make=part)


MOST_PAIRED = 64
"""Most layers of which every pair may have an axis."""


def plan_open_space(
    spec: SpaceSpec, setting: Setting, key: str, mistakes: Mistakes
) -> PlannedSpace[Blueprint] | None:
    """Plan a written space, with or without a flow; see ``plan_space``."""
    if spec.flow is not None:
        return _FlowPlanner(spec, spec.flow, setting, key, mistakes).plan()
    if not spec.operator:
        mistakes.add(
            f"{key}.operator", "expected this key, got nothing; it is required."
        )
        return None
    return plan_space(spec, setting, key, mistakes)


@dataclass(frozen=True, slots=True)
class _FlowPlanner:
    spec: SpaceSpec
    flow: FlowSpec
    setting: Setting
    key: str
    mistakes: Mistakes

    def plan(self) -> PlannedSpace[Blueprint] | None:
        before = len(self.mistakes.found)
        try:
            found = flow_kind(self.flow.kind)
        except PluginError as error:
            self.mistakes.add(f"{self.key}.flow.kind", f"{error}")
            return None
        if found is None:
            names = list(dict.fromkeys([*KINDS, *plugins.known("flows")]))
            near = suggestion(self.flow.kind, names, "; ") or "."
            told = _either(tuple(map(repr, names)))
            self._wrong("flow.kind", f"{told}, got {self.flow.kind!r}{near}")
            return None
        self._check_sources()
        self._check_keys()
        merge = self._merge()
        known = {MERGE: merge is not None, **dict.fromkeys(self.setting.inputs, True)}
        if not all(known.get(name, False) for name in self.flow.sources or ("",)):
            return None
        stock = self._stock(merge)
        if stock is not None:
            self._check_stock(stock)
        if stock is None or len(self.mistakes.found) > before:
            return self._guess(merge)
        return self._planned(stock, merge)

    def _planned(
        self, stock: LayerPool, merge: PlannedSpace[MergeBlueprint] | None
    ) -> PlannedSpace[Blueprint]:
        scales = Scales(
            Scaling(self.flow.scales), self.flow.scale.low, self.flow.scale.high
        )
        make = self._kind.make
        assert make is not None
        axes = [*(merge.space.axes if merge else ())]
        ends = [self._end("embed", axes), self._end("head", axes)]
        blueprint = FlowBlueprint(
            frame=self.setting.frame,
            dtype=self.setting.dtype,
            inputs=self.setting.inputs,
            flow=make(stock, *self._counts, scales),
            embed=ends[0],
            head=ends[1],
            matrix=Matrix(stock, scales) if scales.kind is Scaling.FULL else None,
            merge=merge.blueprint if merge else None,
            version=self.setting.version,
        )
        sites = [site for strand in blueprint.strands for site in strand]
        axes += [axis for site in sites for axis in site]
        strands = tuple(
            Strand(tuple(tuple(axis.name for axis in site) for site in strand))
            for strand in blueprint.strands
        )
        return PlannedSpace(SearchSpace(tuple(axes), strands), blueprint)

    def _guess(
        self, merge: PlannedSpace[MergeBlueprint] | None
    ) -> PlannedSpace[Blueprint]:
        """Return something to look for further mistakes with."""
        stock = LayerPool(tuple((name, 1) for name in self.flow.sources), 1, 1)
        flow = self.flow.model_copy(update={"kind": "donors", "scales": "none"})
        guess = replace(self, flow=flow)._planned(stock, merge)
        return replace(guess, is_guess=True)

    @property
    def _kind(self) -> FlowKind:
        found = flow_kind(self.flow.kind)
        assert found is not None
        return found

    @property
    def _counts(self) -> Sequence[int]:
        written = {key: getattr(self.flow, key) for key in self._kind.counts}
        return [
            usual if written[key] is None else written[key]
            for key, usual in self._kind.counts.items()
        ]

    def _end(self, which: str, axes: list[Axis]) -> Term:
        """Return whose embedding or head is taken, and open an axis over several."""
        names = getattr(self.flow, which) or self.flow.sources[:1]
        if len(names) == 1:
            return str(names[0])
        axes.append(ChoiceAxis(which, names))
        return Coordinate(which)

    def _merge(self) -> PlannedSpace[MergeBlueprint] | None:
        """Plan what the source ``merge`` is, if there is one."""
        if not self.spec.operator:
            for name in ("knobs", "norm_policy", "embed_policy"):
                if getattr(self.spec, name):
                    self._wrong(name, "an operator that this belongs to, got none.")
            return None
        return plan_space(self.spec, self.setting, self.key, self.mistakes)

    def _check_sources(self) -> None:
        flow, known = self.flow, [MERGE, *self.setting.inputs]
        used = {*flow.sources, *flow.embed, *flow.head}
        for which in ("sources", "embed", "head"):
            names = getattr(flow, which)
            for i, name in enumerate(names):
                below = f"flow.{which}.{i}" if which == "sources" else f"flow.{which}"
                if name not in known:
                    hint = did_you_mean(name, known)
                    self.mistakes.add(
                        f"{self.key}.{below}", f"unknown source {name!r}{hint}"
                    )
                elif name in names[:i]:
                    self._wrong(below, f"each source once, got {name!r} again.")
        if not flow.sources:
            self._wrong("flow.sources", "at least one source.")
        if MERGE in used and not self.spec.operator:
            self._wrong(
                "operator",
                "an operator: the flow has layers of `merge`, which is what the "
                "operator makes.",
            )
        if self.spec.operator and MERGE not in used:
            self._wrong(
                "flow.sources",
                f"`merge` among the sources: without it {self.spec.operator[0]!r} "
                "has no effect. Add it, or leave the operator out.",
            )

    def _check_keys(self) -> None:
        """Note keys that say nothing beside this kind."""
        flow = self.flow
        others = [(key, name) for name, kind in KINDS.items() for key in kind.counts]
        for key, name in others:
            if name != flow.kind and getattr(flow, key) is not None:
                self._wrong(
                    f"flow.{key}",
                    f"no such key beside kind {flow.kind}; it belongs to {name}.",
                )
        if self._kind.is_of_one and len(flow.sources) > 1:
            self._wrong(
                "flow.sources",
                f"one source for {flow.kind}, got {len(flow.sources)}; several are for "
                "slices, gates or edits.",
            )
        if self._kind.keeps_depth and "depth" in flow.model_fields_set:
            self._wrong("flow.depth", f"no such key: {flow.kind} keep the depth.")
        if flow.scales not in self._kind.scales:
            self._wrong(
                "flow.scales",
                f"{_either(self._kind.scales)} for kind {flow.kind}, "
                f"got {flow.scales!r}.",
            )
        if flow.scales == "none" and "scale" in flow.model_fields_set:
            self._wrong("flow.scale", "scales: layer, edge or full beside a range.")
        if flow.times == 1:
            self._wrong("flow.times", "at least 2, got 1.")
        if self._kind.keeps_depth and len(flow.sources) == 1:
            self._wrong("flow.sources", f"at least two sources for {flow.kind}.")

    def _stock(self, merge: PlannedSpace[MergeBlueprint] | None) -> LayerPool | None:
        """Return the layers at hand; None if they are not known."""
        depths = {**self.setting.depths}
        if merge is not None and self._merged() <= depths.keys():
            depths[MERGE] = self.setting.n_layers
        if not set(self.flow.sources) <= depths.keys():
            return None
        sources = tuple((name, depths[name]) for name in self.flow.sources)
        low, high = self._bounds(sources)
        return LayerPool(sources, low, high, self.flow.pin == "ends")

    def _merged(self) -> set[str]:
        return {*self.spec.experts, *([self.spec.base] if self.spec.base else [])}

    def _bounds(self, sources: tuple[tuple[str, int], ...]) -> tuple[int, int]:
        """Return fewest and most layers; around the first source if they are wrong."""
        first, depth = sources[0]
        reach = self._kind.reach
        if reach is None:
            return depth, depth
        written = self.flow.depth
        low = (depth + 1) // 2 if written.min is None else written.min
        high = 2 * depth if written.max is None else written.max
        begins = f"the search begins with {first!r} as it stands, which has {depth}"
        if low > depth:
            self._wrong("flow.depth.min", f"at most {depth}: {begins}, got {low}.")
        if high < depth:
            self._wrong("flow.depth.max", f"at least {depth}: {begins}, got {high}.")
        high = min(high, reach([n for _, n in sources], *self._counts))
        return min(low, depth), max(high, depth)

    def _check_stock(self, stock: LayerPool) -> None:
        """Note what does not go together with the depth of the sources."""
        first = stock.first
        for name, depth in stock.sources:
            if self._kind.keeps_depth and depth != stock.depth:
                self._wrong(
                    "flow.sources",
                    f"sources of one depth for {self.flow.kind}, but {name!r} has "
                    f"{depth} layers and {first!r} has {stock.depth}. Use gates, edits "
                    "or slices.",
                )
        n_inner = len(stock.inner)
        if (self.flow.switches or 0) >= max(n_inner, 1):
            self._wrong(
                "flow.switches",
                f"fewer than the {n_inner} layers that may change, got "
                f"{self.flow.switches}.",
            )
        n_paired = len(stock.layers)
        by_edge = self.flow.scales == "edge" and self._kind.is_paired
        if by_edge:
            n_paired *= math.prod(self._counts)
        if (by_edge or self.flow.scales == "full") and n_paired > MOST_PAIRED:
            self._wrong(
                "flow.scales",
                f"none or layer: pairs of {n_paired} layers would be too many axes "
                f"(at most {MOST_PAIRED} layers).",
            )

    def _wrong(self, below: str, expected: str) -> None:
        self.mistakes.add(f"{self.key}.{below}", f"expected {expected}")


def _either(words: tuple[str, ...]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
