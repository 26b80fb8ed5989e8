"""A recipe seen as a model: every tensor is merged when it is read.

Everything that can be refused is refused when the recipe is opened, before the first
tensor: an engine is not left half overwritten by a mistake in a recipe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch

from evomerge.checkpoints import BUFFER, LayerType, Piece
from evomerge.checkpoints.configs.nested import decoder_config
from evomerge.checkpoints.foldable import Fold
from evomerge.core.digest import digest
from evomerge.core.recipes.recipe import (
    Nested,
    Operation,
    Recipe,
    Slot,
    with_statistics,
)
from evomerge.core.recipes.settings import resolve
from evomerge.errors import RecipeError
from evomerge.merging.derived_data import Scoped
from evomerge.merging.operators import apply, apply_into
from evomerge.merging.operators.inputs import NOTHING_KEPT, Beside, Memo
from evomerge.merging.operators.loops.arrays import is_finite, not_finite
from evomerge.merging.operators.thresholds.model_thresholds import Share
from evomerge.merging.sources import Sources, Space
from evomerge.merging.views.averaged_factors import Tensor, check_factors, merge_factors
from evomerge.merging.views.configuration import (
    fold_into,
    is_tied,
    layout_of,
    recipe_folds,
    rewritten,
    usual_type,
)
from evomerge.merging.views.fused import Whole, Wholes, cut, paste, wholes_of
from evomerge.merging.views.global_trim import Member, ModelShares
from evomerge.merging.views.inputs import Feed, open_view
from evomerge.merging.views.measured import Measured, MeasuredTensor
from evomerge.merging.views.stored import Part, View, Where


class Merged:
    """A recipe as a view: every read merges one tensor."""

    def __init__(
        self, recipe: Recipe, sources: Sources, *, scaled: bool = False
    ) -> None:
        """Check the recipe against its sources.

        Args:
            recipe: What to merge.
            sources: Where its inputs lie.
            scaled: Whoever reads the weights scales the layers' inputs by itself;
                otherwise the scales are folded into the weights.

        Raises:
            RecipeError: It names a layer that an input lacks, its scales do not fold
                into weights, or its inputs are not of one architecture.
            CheckpointError: A source cannot be opened.
        """
        recipe = recipe.computed
        self.recipe = recipe
        self.n_layers = len(recipe.slots)
        self._views: dict[str, View] = {
            name: open_view(source, sources, Merged) for name, source in recipe.inputs
        }
        self._contents = {
            n: digest(with_statistics(one, ()).to_json()) for n, one in recipe.inputs
        }
        self._sources = sources
        # What is merged on the fly is another one for the next candidate.
        self._passing = {n for n, one in recipe.inputs if isinstance(one, Nested)}
        lasting = NOTHING_KEPT if self._passing else sources.derived
        self._shares = ModelShares(self._members, lasting)
        self.tied = is_tied(recipe, self._views)
        self.layout = layout_of(recipe, self._views)
        slots: dict[Where, Slot] = {"embed": recipe.embed, "head": recipe.head}
        slots |= dict(enumerate(recipe.slots))
        slots["beside"] = recipe.beside
        self._feeds = {
            where: Feed.of(where, slot, self._views, recipe.frame)
            for where, slot in slots.items()
        }
        self._sections = {where: self._merge_section(where) for where in self._feeds}
        for where in self._sections:
            operations = {
                self._operation(where, name, piece): None
                for name, piece in self._merged_pieces(where)
            }
            for operation in operations:
                resolve(operation)
            check_factors(operations, recipe, self._feeds[where].slot, self._views)
        self._measured = self._open_measured()
        self._refuse_moved_predictions()
        self._refuse_moved_stacks()
        frame, stack = self._views[recipe.frame].config, self._stack()
        usual = usual_type(self._sections.values())
        tied = None if self.layout.is_headless else self.tied
        self._config = rewritten(frame, stack, tied=tied, dtype=usual)
        decoder = decoder_config(self._config)
        family = str(decoder.get("model_type", ""))
        fused = range(self.n_layers if recipe.fused else 0)
        self._wholes = Wholes(
            {i: wholes_of(self._sections[i], family) for i in fused},
            lambda where, name, one: self._read(where, name, one).to(sources.device),
            self._whole_operation,
        )
        self._folds: Mapping[tuple[Where, str], Fold] = {}
        if not scaled:
            self._folds = recipe_folds(recipe, decoder, self._sections)

    @property
    def config(self) -> dict[str, Any]:
        """The frame's configuration, rewritten where the merge differs from it."""
        return dict(self._config)

    @property
    def layer_types(self) -> tuple[LayerType, ...]:
        """What each layer computes with its weights."""
        return tuple(kind for _, _, kind in self._stack())

    def section(self, where: Where) -> Mapping[str, Part]:
        """Return the tensors of a section by their names within it."""
        return self._sections[where]

    def held_with(self, where: Where, name: str) -> int:
        """Return the entries of all that a tensor is merged with as one."""
        names = self._wholes.names(where, name)
        return sum(math.prod(self._sections[where][one].shape) for one in names)

    def key(self, where: Where, name: str, piece: Piece | None = None) -> str:
        """Return the first input's key: a repeated layer draws the same masks."""
        return self._key(where, name, piece, self._operation(where, name, piece))

    def read(self, where: Where, name: str) -> torch.Tensor:
        """Merge a tensor into new memory; as :meth:`merge`."""
        return self.merge(where, name, self._sources.fresh)

    def merge(self, where: Where, name: str, space: Space) -> torch.Tensor:
        """Merge a tensor.

        Args:
            where: Its section.
            name: Its name there.
            space: Gives the memory to write the result to.

        Returns:
            A tensor in the recipe's type, or as stored (buffers in their own).

        Raises:
            RecipeError: The operation breaks the catalogue's rules.
            CandidateError: The result is not finite.
        """
        if where == "head" and name == self.layout.head and self.tied:
            where, name = "embed", self.layout.embed
        part = self._sections[where][name]
        if part.role == BUFFER:
            feed = self._feeds[where]
            return feed.view.read(feed.place(feed.like), name).clone()

        out = space(part.shape, dtype=part.dtype)
        fold = self._folds.get((where, name))
        wide = out if fold is None else torch.empty_like(out, dtype=torch.float32)
        is_known = self._merge_into(wide, where, name) and fold is None
        if fold is not None:
            fold_into(out, wide, fold)
        if not is_known and not is_finite(out):
            operation = self._operation(where, name, None)
            raise not_finite(self.layout.full_name(where, name), operation, out)
        return out

    def _merge_into(self, out: torch.Tensor, where: Where, name: str) -> bool:
        """Merge a tensor; tell whether it is known to be finite."""
        if self._wholes.find(where, name) is not None:
            out.copy_(self._wholes.rows(where, name).view(out.shape))
            return False

        # A nested input is merged when it is read: once, not for every piece.
        @cache
        def read(source: str) -> torch.Tensor:
            return self._read(where, name, source).to(self._sources.device)

        is_known = True
        for piece in self._sections[where][name].pieces or (None,):
            is_known &= self._merge_piece(where, name, piece, read, out)
        return is_known

    def _merge_piece(
        self,
        where: Where,
        name: str,
        piece: Piece | None,
        read: Callable[[str], torch.Tensor],
        out: torch.Tensor,
    ) -> bool:
        """Merge a tensor, or its piece; tell whether it is known to be finite."""
        operation = self._operation(where, name, piece)
        key = self._key(where, name, piece, operation)
        find = partial(self._find, where, name)
        if (merged := merge_factors(operation, find, key)) is not None:
            paste(out, piece, cut(merged, piece))
            return False
        tensors = [cut(read(source), piece) for source in operation.inputs]
        base = None if operation.base is None else cut(read(operation.base), piece)
        memo = self._memo(where, name, piece, operation)
        beside = Beside(
            in_model=self._in_model(where, name, piece, operation),
            statistics=partial(self._statistic, where, name, piece),
        )
        if piece is None:
            return apply_into(out, operation, tensors, base, key, memo, **beside)
        paste(out, piece, apply(operation, tensors, base, key, memo, **beside))
        return False

    def _memo(
        self, where: Where, name: str, piece: Piece | None, operation: Operation
    ) -> Memo:
        """Return what is kept of an operation's inputs, by what they hold."""
        names, memo = operation.reads, self._sources.derived
        if memo is not NOTHING_KEPT:
            holds = partial(self._holds, where, name, piece)
            memo = Scoped(memo, {one: holds(one) for one in names})
        if not self._passing.isdisjoint(names):
            memo = NOTHING_KEPT
        return memo

    def _open_measured(self) -> dict[tuple[str, str], Measured]:
        """Open the statistics that operations ask for, and see that nothing lacks.

        Raises:
            RecipeError: An input comes with none, or they are of another model.
        """
        wanted: dict[tuple[str, str], dict[tuple[Where, str], tuple[int, ...]]] = {}
        for where, section in self._sections.items():
            for name, piece in self._merged_pieces(where):
                operation = self._operation(where, name, piece)
                for kind in resolve(operation).operator.statistics:
                    for source in operation.inputs:
                        found = self._find(where, name, source)
                        at = wanted.setdefault((kind, source), {})
                        at[found.where, found.name] = section[name].shape
        opened = {}
        for (kind, source), names in wanted.items():
            view = self._views[source]
            measured = Measured.of(
                kind, source, self.recipe.input(source), view, self._sources
            )
            measured.check(names)
            opened[kind, source] = measured
        return opened

    def _statistic(
        self, where: Where, name: str, piece: Piece | None, kind: str, source: str
    ) -> MeasuredTensor:
        found = self._find(where, name, source)
        return self._measured[kind, source].at(found.where, found.name, piece)

    def _in_model(
        self, where: Where, name: str, piece: Piece | None, operation: Operation
    ) -> Callable[[str], Share] | None:
        """Return what tells of all that a tensor is trimmed with, if it is."""
        if not isinstance(where, int) or not resolve(operation).takes_model:
            return None
        member = self._member(where, name, piece)
        return partial(self._shares.share, operation, member)

    def _holds(self, where: Where, name: str, piece: Piece | None, source: str) -> str:
        """Name what an input holds in a tensor, or in its piece."""
        part = "" if piece is None else piece.name
        place = self._feeds[where].place(source)
        return f"{self._contents[source]} {place} {name} {part}"

    def _members(self) -> Iterator[tuple[Operation, Member]]:
        """Find what is trimmed as one: tensors of layers, but no embedding."""
        for where in range(self.n_layers):
            named = {p.name if p else n: (n, p) for n, p in self._merged_pieces(where)}
            # In one order, whether tensors are stored fused or apart.
            for _, (name, piece) in sorted(named.items()):
                operation = self._operation(where, name, piece)
                if resolve(operation).takes_model:
                    yield operation, self._member(where, name, piece)

    def _member(self, where: int, name: str, piece: Piece | None) -> Member:
        def read(source: str) -> torch.Tensor:
            return cut(self._read(where, name, source).to(self._sources.device), piece)

        whole = torch.empty(self._sections[where][name].shape, device="meta")
        n_entries = cut(whole, piece).numel()
        return Member(n_entries, partial(self._holds, where, name, piece), read)

    def _read(self, where: Where, name: str, source: str) -> torch.Tensor:
        one = self._find(where, name, source)
        return one.view.read(one.where, one.name)

    def _find(self, where: Where, name: str, source: str) -> Tensor:
        """Return what an input has for a tensor of the merge."""
        view, feed = self._views[source], self._feeds[where]
        if where == "head" and name == self.layout.head:
            name = view.layout.head
        else:
            name = feed.name_in(source, name)
        return Tensor(view, feed.place(source), name)

    def _key(
        self, where: Where, name: str, piece: Piece | None, operation: Operation
    ) -> str:
        if where == "head" and name == self.layout.head:
            return name
        first, feed = operation.inputs[0], self._feeds[where]
        name = feed.name_in(first, name)
        return self._views[first].key(feed.place(first), name, piece)

    def _operation(self, where: Where, name: str, piece: Piece | None) -> Operation:
        """Return the operation for a tensor or its piece; both may be named."""
        slot, part = self._feeds[where].slot, self._sections[where][name]
        if piece is not None and piece.name in dict(slot.roles):
            name = piece.name
        return slot.operation(part.role, name)

    def _whole_operation(self, where: Where, whole: Whole) -> tuple[Operation, str]:
        """Return what a whole is merged by, and the name its masks are drawn by."""
        name = next(iter(whole.rows))
        pieces = self._sections[where][name].pieces
        operation = self._operation(where, name, next(iter(pieces), None))
        first = self._feeds[where].place(operation.inputs[0])
        return operation, self.layout.full_name(first, whole.name)

    def _stack(self) -> list[tuple[dict[str, Any], int, LayerType]]:
        """Return whose configuration, index and type each layer of the merge has."""
        feeds = [self._feeds[index] for index in range(self.n_layers)]
        picks = [(feed.view, feed.slot.layer_of(feed.like)) for feed in feeds]
        return [(view.config, i, view.layer_types[i]) for view, i in picks]

    def _merge_section(self, where: Where) -> dict[str, Part]:
        feed = self._feeds[where]
        parts = {
            name: part if part.role == BUFFER else self._typed(feed, name, part)
            for name, part in feed.merged_parts(feed.like).items()
        }
        if where == "beside":
            return parts | feed.carried()
        if where == "head" and not self.tied:
            head = Part("head", self._head_shape(feed), torch.float32)
            parts[self.layout.head] = self._typed(feed, self.layout.head, head)
        return parts

    def _refuse_moved_predictions(self) -> None:
        """Refuse another depth where what stands behind the last layer is numbered."""
        behind = [n for n in self.section("beside") if n.startswith(self.layout.layers)]
        own = self._views[self.recipe.frame].n_layers
        if behind and own != self.n_layers:
            raise RecipeError(
                f"{behind[0]} predicts a further token behind the last of {own} "
                f"layers, but the merge has {self.n_layers}: no configuration can say "
                "where it stands. Keep as many layers as the frame has."
            )

    def _refuse_moved_stacks(self) -> None:
        """Refuse other layers than the frame's in their order in one of its stacks."""
        frame = self._views[self.recipe.frame]
        stacks = dict.fromkeys(k.stack for k in frame.layer_types if k.stack)
        if not stacks:
            return
        own = frame.n_layers
        slots = [self._feeds[index].slot for index in range(self.n_layers)]
        moved = [i for i, s in enumerate(slots) if {n for _, n in s.layers} != {i}]
        if moved or own != self.n_layers:
            names = ", ".join(f"{name}N" for name in stacks)
            raise RecipeError(
                f"The frame's {own} layers are those of several stacks, or run several "
                f"times ({names}), so each can only be merged with the same layer of "
                f"other models. The merge has {self.n_layers} layers, and "
                f"{moved[:8]} of them are not where they were. Keep the frame's layers "
                "in their order."
            )

    def _head_shape(self, feed: Feed) -> tuple[int, ...]:
        """Return the head's shape; of an embedding's where the frame ties it."""
        layout = feed.view.layout
        head = feed.view.section("head").get(layout.head)
        return (head or feed.view.section("embed")[layout.embed]).shape

    def _typed(self, feed: Feed, name: str, part: Part) -> Part:
        """Return a part with the element type it is merged to."""
        dtype = feed.element_type(self.recipe.dtype, name, part, self.layout.head)
        return replace(part, dtype=dtype)

    def _merged_pieces(self, where: Where) -> Iterator[tuple[str, Piece | None]]:
        for name, part in self._sections[where].items():
            if part.role != BUFFER:
                yield from ((name, piece) for piece in part.pieces or (None,))
