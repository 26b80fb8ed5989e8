"""A model with the rows of its embedding and head in the order of another vocabulary.

Rows are moved when they are read (MergeKit, 2403.13257, section 3.2). A token that the
model lacks gets the base's row, or what its owners have; a row of no token gets the
donor's. Everything else is the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from evomerge.checkpoints import LayerType, Layout, Model, Piece
from evomerge.checkpoints.alignment import (
    ABSENT,
    TRANSFORM,
    Alignment,
    Plan,
    align,
)
from evomerge.core.digest import digest
from evomerge.core.recipes.recipe import Adapted, Checkpoint, Input, Transformed
from evomerge.errors import RecipeError
from evomerge.merging.sources import Sources
from evomerge.merging.views.stored import Part, View, Where


@dataclass(frozen=True)
class Aligned:
    """An alignment with its maps as tensors.

    Attributes:
        models: The models that take part, by name.
    """

    alignment: Alignment
    models: Mapping[str, Model]

    @cached_property
    def maps(self) -> Mapping[str, torch.Tensor]:
        """Model to its own row for each row of the target, int64."""
        return {name: torch.tensor(ids) for name, ids in self.alignment.maps.items()}

    @cached_property
    def is_token(self) -> torch.Tensor:
        """For each row of the target, whether it stands for a token."""
        return torch.tensor(self.alignment.is_token)


def opened_alignment(source: Transformed, sources: Sources) -> Aligned:
    """Return the alignment that a transformed input was made by, worked out once.

    Raises:
        RecipeError: It is of another kind, or comes out otherwise than recorded.
        CheckpointError: A model cannot be opened, or lacks a tokenizer.
    """
    if source.transform != TRANSFORM:
        raise RecipeError(
            f"An input is transformed by {source.transform!r}; this version has only "
            f"{TRANSFORM!r}."
        )
    written = {key: value for key, value in source.to_json().items() if key != "of"}
    name = digest(written)
    found: Aligned | None = sources.views.get(name)
    if found is None:
        models = {n: _model(one, sources) for n, one in source.among}
        plan = Plan.of(dict(source.settings))
        if odd := {plan.donor, *([plan.base] if plan.base else [])} - models.keys():
            raise RecipeError(
                f"A vocabulary is planned by {sorted(odd)}, which is none of the "
                f"models it is made from: {sorted(models)}."
            )
        found = Aligned(align(models, plan), models)
        if found.alignment.statistics != source.statistics:
            raise RecipeError(
                f"The vocabulary comes out as {found.alignment.statistics}, but the "
                f"recipe was made with {source.statistics}; use the evomerge that made "
                "it."
            )
        sources.views[name] = found
    return found


def open_transformed(
    source: Transformed, sources: Sources, open_view: Callable[[Input], View]
) -> View:
    """Return the view of a model brought to another vocabulary.

    Args:
        source: What is opened.
        sources: Where models lie.
        open_view: Opens the models it is made from.

    Raises:
        RecipeError: As for ``opened_alignment``.
        CheckpointError: As for ``opened_alignment``.
    """
    aligned = opened_alignment(source, sources)
    views = {name: open_view(one) for name, one in source.among}
    return Revocabulated(name_within(source), aligned, views)


def name_within(source: Transformed) -> str:
    """Return what the transformed input is called among the models aligned.

    Raises:
        RecipeError: It is none of them.
    """
    for name, one in source.among:
        if one == source.of:
            return name
    raise RecipeError("An input is brought to a vocabulary it has no part in.")


def _model(source: Input, sources: Sources) -> Model:
    if isinstance(source, Checkpoint | Adapted):
        return sources.model(source.fingerprint)
    raise RecipeError(
        "Only checkpoints, plain or adapted, can be brought to one vocabulary."
    )


class Revocabulated:
    """A view whose embedding and head have the rows of the target."""

    def __init__(self, name: str, aligned: Aligned, views: Mapping[str, View]) -> None:
        """Lay the target's rows over a view.

        Args:
            name: What the model is called in the alignment.
            aligned: The alignment.
            views: Every model that takes part in it, as it is.

        Raises:
            RecipeError: A tensor has a column for each token, which is not moved.
        """
        self._name = name
        self._aligned = aligned
        self._views = views
        self._of = views[name]
        self.n_layers: int = self._of.n_layers
        self.tied: bool = self._of.tied
        layout = self._of.layout
        self._n_own = self._of.section("embed")[layout.embed].shape[0]
        for tensor, part in self._of.section("head").items():
            if part.role == "bias" and self._n_own in part.shape[1:]:
                raise RecipeError(
                    f"{tensor} of shape {list(part.shape)} has a column for each "
                    f"token of {name!r}, and only rows are brought to another "
                    "vocabulary. Merge models of one vocabulary."
                )

    @property
    def layout(self) -> Layout:
        """What its parts are called."""
        return self._of.layout

    @property
    def layer_types(self) -> tuple[LayerType, ...]:
        """What each layer computes with its weights."""
        return self._of.layer_types

    @property
    def config(self) -> dict[str, Any]:
        """The model's configuration with the target's rows and special tokens."""
        alignment = self._aligned.alignment
        config, donor = self._of.config, self._views[alignment.plan.donor].config
        config["vocab_size"] = alignment.rows
        return config | alignment.special_tokens(self._name, config, donor)

    def section(self, where: Where) -> Mapping[str, Part]:
        """Return the tensors of a section by their names within it."""
        parts = self._of.section(where)
        rows = self._aligned.alignment.rows
        return {
            name: replace(part, shape=(rows, *part.shape[1:]))
            if self._is_moved(where, part)
            else part
            for name, part in parts.items()
        }

    def key(self, where: Where, name: str, piece: Piece | None = None) -> str:
        """Return the name that random masks are drawn by: the stored tensor's."""
        return self._of.key(where, name, piece)

    def read(self, where: Where, name: str) -> torch.Tensor:
        """Return a tensor; never write into it."""
        own = self._of.read(where, name)
        is_head = where == "head" and name == self.layout.head
        part = self._of.section(where).get(name)
        if not is_head and (part is None or not self._is_moved(where, part)):
            return own
        return self._moved(where, name, own.cpu())

    def _is_moved(self, where: Where, part: Part) -> bool:
        """Tell whether a tensor has a row for each token."""
        return (
            not isinstance(where, int)
            and part.role in ("embed", "head", "bias")
            and part.shape[0] == self._n_own
        )

    def _moved(self, where: Where, name: str, own: torch.Tensor) -> torch.Tensor:
        target = own.new_zeros((self._aligned.alignment.rows, *own.shape[1:]))
        mine = self._aligned.maps[self._name]
        tokens = self._aligned.is_token
        _copy(target, own, mine, tokens & (mine != ABSENT))
        lacking = tokens & (mine == ABSENT)
        if bool(lacking.any()):
            self._fill(target, where, name, lacking)
        if not bool(tokens.all()):
            self._pad(target, where, name, ~tokens)
        return target

    def _fill(
        self, target: torch.Tensor, where: Where, name: str, lacking: torch.Tensor
    ) -> None:
        """Give rows to tokens the model lacks, as the plan says."""
        plan, maps = self._aligned.alignment.plan, self._aligned.maps
        if plan.missing == "zero":
            return
        if plan.missing == "owner" and plan.base is not None:
            asked = lacking & (maps[plan.base] != ABSENT)
            _copy(target, self._theirs(plan.base, where, name), maps[plan.base], asked)
            lacking = lacking & ~asked
        total = torch.zeros(int(lacking.sum()), *target.shape[1:])
        count = torch.zeros(len(total), dtype=torch.long)
        for other in self._views:
            if plan.apart and other == plan.donor:
                continue
            rows = maps[other][lacking]
            has = rows != ABSENT
            if bool(has.any()):
                theirs = self._theirs(other, where, name)
                total[has] += theirs.index_select(0, rows[has]).float()
                count += has
        shape = (-1, *([1] * (total.dim() - 1)))
        target[lacking] = (total / count.clamp(min=1).view(shape)).to(target.dtype)
        # A token that no model has a row for is padding to all of them.
        if bool((count == 0).any()) and not plan.apart:
            nobody = lacking.clone()
            nobody[lacking] = count == 0
            self._pad(target, where, name, nobody)

    def _pad(
        self, target: torch.Tensor, where: Where, name: str, rows: torch.Tensor
    ) -> None:
        """Give the donor's rows where it has them, elsewhere the mean of its tokens."""
        donor = self._aligned.alignment.plan.donor
        theirs = self._theirs(donor, where, name)
        place = torch.arange(len(target))
        within = rows & (place < len(theirs))
        _copy(target, theirs, place, within)
        if bool((rows & ~within).any()):
            known = self._aligned.maps[donor]
            tokens = theirs.index_select(0, known[known != ABSENT])
            mean = tokens.float().mean(dim=0)
            target[rows & ~within] = mean.to(target.dtype)

    def _theirs(self, other: str, where: Where, name: str) -> torch.Tensor:
        """Return the same tensor of another model; parts are called as they call it."""
        view = self._views[other]
        if name == self.layout.embed:
            name = view.layout.embed
        elif name == self.layout.head:
            name = view.layout.head
        return view.read(where, name).cpu()


def _copy(
    target: torch.Tensor,
    source: torch.Tensor,
    places: torch.Tensor,
    wanted: torch.Tensor,
) -> None:
    """Put row ``places[i]`` of the source into row ``i``, where wanted."""
    target[wanted] = source.index_select(0, places[wanted]).to(target.dtype)
