"""From slices with settings to the slots of a recipe: every value decided.

What was decided for each tensor is written as few entries of a slot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from evomerge.core.blueprint import ROLE_GROUPS
from evomerge.core.operators.catalogue import EMBED_ROLES, HEAD_ROLES, LAYER_ROLES
from evomerge.core.recipes.operation import Operation
from evomerge.core.recipes.recipe import ANY_ROLE, Slot
from evomerge.errors import RecipeError
from evomerge.specs.mergekit.methods import Method
from evomerge.specs.mergekit.operations import Decided, Profile, operation_of
from evomerge.specs.mergekit.settings import START, Position
from evomerge.specs.mergekit.slices import OutSlice, Source
from evomerge.specs.mergekit.tensors import Parts, Tensor, Where
from evomerge.specs.mergekit.values import Values
from evomerge.specs.reading.mistakes import Mistakes

ByTensor = Mapping[str, tuple[str, Operation]]
"""Tensor name within the slot, to role and operation."""


def compact(
    tensors: ByTensor, roles: tuple[str, ...]
) -> tuple[tuple[str, Operation], ...]:
    """Return entries of a slot: by role, and by name what its role does not say.

    The first role's operation serves whatever is not named, as in recipes that come
    from a search space; a role without tensors goes with its group.

    Args:
        tensors: At least one tensor.
        roles: Those of the place, the usual one first.
    """
    by_role = _usual(tensors)
    usual = by_role.get(roles[0]) or next(
        by_role[r] for r in (*roles, *by_role) if r in by_role
    )
    entries = {ANY_ROLE: usual}
    for role in dict.fromkeys((*roles, *by_role)):
        operation = by_role.get(role) or _of_group(role, by_role) or usual
        if operation != usual:
            entries[role] = operation
    for name, (role, operation) in tensors.items():
        if operation != by_role[role]:
            entries[name] = operation
    return tuple(entries.items())


def _usual(tensors: ByTensor) -> dict[str, Operation]:
    """Return the most frequent operation of each role; of equals the first."""
    counts: dict[str, Counter[Operation]] = {}
    for _, (role, operation) in sorted(tensors.items()):
        counts.setdefault(role, Counter())[operation] += 1
    return {role: found.most_common(1)[0][0] for role, found in counts.items()}


def _of_group(role: str, by_role: Mapping[str, Operation]) -> Operation | None:
    group = ROLE_GROUPS.get(role)
    for other, operation in by_role.items():
        if ROLE_GROUPS.get(other) == group:
            return operation
    return None


@dataclass(frozen=True, slots=True)
class Feed:
    """One input of one part of the result.

    Attributes:
        where: Which part of the input.
    """

    source: Source
    where: Where


@dataclass(frozen=True)
class Planner:
    """Decides the operation of every tensor.

    Attributes:
        method: The one method.
        models: Input name to model.
        profile: Whose defaults count.
        seed: Of random masks.
        mistakes: Where to note what is wrong.
        rows_move: The rows of embedding and head are brought to one vocabulary.
        seen: Names, as mergekit has them, of all tensors that were decided.
    """

    method: Method
    models: Mapping[str, Parts]
    profile: Profile
    seed: int
    mistakes: Mistakes
    rows_move: bool = False
    seen: set[str] = field(default_factory=set)
    _known: dict[tuple[Decided, str | None], Operation | None] = field(
        default_factory=dict
    )

    def slots(self, slices: list[OutSlice]) -> list[Slot]:
        """Return the layers of the result."""
        out: list[Slot] = []
        for cut in slices:
            starts = [self._range(source)[0] for source in cut.sources]
            first, end = self._range(cut.sources[0])
            for i in range(end - first):
                feeds = [
                    Feed(source, start + i)
                    for source, start in zip(cut.sources, starts, strict=True)
                ]
                at = (i, end - first - 1) if end - first > 1 else (1, 1)
                roles = self._place(cut, feeds, at, len(out))
                out.append(_slot(roles, feeds))
        return out

    def embed(self, slices: list[OutSlice]) -> Slot:
        """Return the embedding: merged as the first slice says."""
        first = slices[0]
        feeds = [Feed(source, "embed") for source in first.sources]
        return _slot(self._place(first, feeds, START, "embed"))

    def head(self, slices: list[OutSlice]) -> Slot:
        """Return final norm and head: merged as the last slice says."""
        last = slices[-1]
        feeds = [Feed(source, "head") for source in self._last_sources(slices)]
        return _slot(self._place(last, feeds, START, "head"))

    def _last_sources(self, slices: list[OutSlice]) -> tuple[Source, ...]:
        """Return as many sources of the last slice as mergekit takes.

        It takes no more than the first slice has.
        """
        last = slices[-1]
        kept = last.sources[: len(slices[0].sources)]
        if self.profile != "identical" or len(kept) == len(last.sources):
            return last.sources
        others = [source for source in kept if source.name != last.base]
        wrong = self.method.count_problem(len(kept), len(others))
        without = len(others) == len(kept) and last.has_base
        if wrong or (without and self.method.base != "ignored"):
            return last.sources  # mergekit fails here
        return kept

    def _range(self, source: Source) -> tuple[int, int]:
        return source.layers or (0, self.models[source.name].model.n_layers)

    def _place(
        self, cut: OutSlice, feeds: list[Feed], at: Position, where: Where
    ) -> Mapping[str, tuple[str, Operation]]:
        """Decide the operations of one part of the result; empty if none could be."""
        out: dict[str, tuple[str, Operation]] = {}
        for suffix, tensor in self._tensors(feeds).items():
            inputs = self._inputs(cut, feeds, suffix)
            if inputs is None:
                continue
            name = tensor.called_in(where) if isinstance(where, int) else tensor.called
            decided = self._decide(cut, inputs, name, at)
            operation = self._operation(decided, tensor.role, cut) if decided else None
            if operation is not None:
                out[suffix] = (tensor.role, operation)
        return out

    def _tensors(self, feeds: list[Feed]) -> Mapping[str, Tensor]:
        """Return the tensors of a part; a head where any input has one of its own."""
        out: dict[str, Tensor] = {}
        for feed in feeds:
            for suffix, tensor in self.models[feed.source.name].of(feed.where).items():
                out.setdefault(suffix, tensor)
        return out

    def _inputs(
        self, cut: OutSlice, feeds: list[Feed], suffix: str
    ) -> list[tuple[Source, Tensor]] | None:
        """Return every source's tensor; None, and a mistake noted, if they differ."""
        found = []
        for feed in feeds:
            tensor = self.models[feed.source.name].get(feed.where, suffix)
            if tensor is None:
                self.mistakes.add(cut.key, self._explain_lack(feed, feeds, suffix))
                return None
            found.append((feed.source, tensor))
        (first, usual), *rest = found
        skipped = 1 if self.rows_move and usual.role in ("embed", "head") else 0
        for source, tensor in rest:
            if tensor.shape[skipped:] != usual.shape[skipped:]:
                self.mistakes.add(
                    cut.key,
                    f"expected tensors of one shape: {usual.name} is "
                    f"{list(usual.shape)} in {first.name!r}, but {tensor.name} is "
                    f"{list(tensor.shape)} in {source.name!r}. "
                    + (
                        "Vocabularies of different sizes need a tokenizer section."
                        if usual.role in ("embed", "head")
                        else "Merge models of one shape."
                    ),
                )
                return None
        return found

    def _explain_lack(self, feed: Feed, feeds: list[Feed], suffix: str) -> str:
        """Say which model has a tensor that another lacks."""
        has, tensor = next(
            (other.source.name, tensor)
            for other in feeds
            if (tensor := self.models[other.source.name].get(other.where, suffix))
        )
        where = feed.where
        lacks = tensor.in_layer(where) if isinstance(where, int) else tensor.name
        return (
            f"expected models of one architecture: {feed.source.name!r} lacks "
            f"{lacks!r}, but {has!r} has {tensor.name!r}. Download the models again if "
            "they should be alike."
        )

    def _decide(
        self,
        cut: OutSlice,
        inputs: list[tuple[Source, Tensor]],
        name: str,
        at: Position,
    ) -> Decided | None:
        named = [(source, tensor.called) for source, tensor in inputs]
        self.seen.update(tensor for _, tensor in named)
        values = Values(self.method, self.profile, self.mistakes, cut, at)
        return values.decide(named, name)

    def _operation(
        self, decided: Decided, role: str, cut: OutSlice
    ) -> Operation | None:
        key = (decided, role if self.profile == "default" else None)
        if key not in self._known:
            try:
                self._known[key] = operation_of(
                    decided, self.profile, seed=self.seed, role=role
                )
            except RecipeError as error:
                self._known[key] = None
                self.mistakes.add(cut.key, f"expected values that fit: {error}")
        return self._known[key]


def _slot(
    roles: Mapping[str, tuple[str, Operation]], feeds: list[Feed] | None = None
) -> Slot:
    """Write a slot; an empty one, never to be used, beside mistakes."""
    if not roles:
        return Slot(())
    if feeds is None:
        order = EMBED_ROLES if "embed" in {r for r, _ in roles.values()} else HEAD_ROLES
        return Slot(compact(roles, order))
    entries = compact(roles, LAYER_ROLES)
    read = {name for _, operation in entries for name in operation.reads}
    layers = {f.source.name: f.where for f in feeds if f.source.name in read}
    return Slot(entries, tuple((n, w) for n, w in layers.items() if isinstance(w, int)))
