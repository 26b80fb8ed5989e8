"""Recipe files that set layers of whole models on each other: ``stack:``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from evomerge.checkpoints import Model
from evomerge.checkpoints.foldable import writers
from evomerge.core.flow.stacks import (
    Frame,
    Layer,
    Run,
    recipe_of,
    shuffle,
    stack,
    switch,
    upscale,
)
from evomerge.core.nearest import did_you_mean
from evomerge.core.recipes.recipe import Recipe
from evomerge.errors import RecipeError, SpecError
from evomerge.specs.misfits import note_tokenizers, refuse_misfits
from evomerge.specs.reading.mistakes import Mistakes, validate
from evomerge.specs.reading.spec import Allowed, Name, Positive, Spec
from evomerge.specs.schema.study import Dtype
from evomerge.specs.sources import (
    input_of,
    kept_dtype,
    open_sources,
)

_Index = Annotated[int, Field(ge=0)]


class SliceSpec(Spec):
    """Layers of one source."""

    source: Name = Field(description="Whose layers.")
    layers: tuple[_Index, _Index] = Field(
        description="The first layer, from 0, and the one after the last."
    )
    scale: float = Field(
        default=1.0,
        ge=0.0,
        description="Factor on what these layers add to the hidden state.",
    )


class ShuffleSpec(Spec):
    """Each layer from another source."""

    donors: dict[Name, Annotated[float, Field(ge=0.0)]] = Field(
        description="Source to its weight in the draw; in order where `points` are "
        "given.",
    )
    seed: int = Field(default=0, ge=0, description="Another seed draws other donors.")
    full: bool = Field(
        default=False, description="Draw the order of the layers as well."
    )
    points: tuple[_Index, ...] | None = Field(
        default=None,
        description="Instead of a draw: the layers at which the next donor takes over.",
    )


class UpscaleSpec(Spec):
    """One source with its middle repeated."""

    source: Name = Field(description="Which one.")
    n: Positive | None = Field(
        default=None, description="Layers taken of it; all if not given."
    )
    overlap: _Index = Field(
        description="Layers left out at the end of the first copy and at the beginning "
        "of the second."
    )


class StackSpec(Spec):
    """Which layer fills which place."""

    slices: tuple[SliceSpec, ...] | None = Field(
        default=None, description="Layers of sources, one after another."
    )
    shuffle: ShuffleSpec | None = Field(
        default=None, description="Every layer from a source that is drawn for it."
    )
    upscale: UpscaleSpec | None = Field(
        default=None, description="A source with its middle repeated."
    )
    embed: Name | None = Field(
        default=None, description="Whose embedding; the first layer's if not given."
    )
    head: Name | None = Field(
        default=None,
        description="Whose final norm and head; the last layer's if not given.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = ("slices", "shuffle", "upscale")
        given = [way for way in ways if getattr(self, way) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise ValueError(f"expected one of {', '.join(ways)}, got {got}")
        return self

    @property
    def named(self) -> Iterator[tuple[str, str]]:
        """Every key that names a source, with the name."""
        for i, part in enumerate(self.slices or ()):
            yield f"slices.{i}.source", part.source
        for name in self.shuffle.donors if self.shuffle else ():
            yield f"shuffle.donors.{name}", name
        if self.upscale is not None:
            yield "upscale.source", self.upscale.source
        for key, end in (("embed", self.embed), ("head", self.head)):
            if end is not None:
                yield key, end


class StackedSpec(Spec):
    """A recipe of whole layers, and the folders it takes them from."""

    sources: dict[Name, str] = Field(
        min_length=1,
        description="Name to model folder, relative to the recipe file, or hub id.",
    )
    frame: Name | None = Field(
        default=None, description="The source that gives config and tokenizer."
    )
    dtype: Dtype | None = Field(
        default=None,
        description="Element type of the result, or `stored`: each tensor keeps its "
        "own. If not given the frame's, and `stored` where a source holds several.",
    )
    allow: Allowed = None
    stack: StackSpec = Field(
        description="Layers of whole models set on each other, instead of a merge."
    )


def read_stack(
    data: Mapping[str, Any], file: Path, mistakes: Mistakes
) -> tuple[Recipe, dict[str, Model]]:
    """Read a recipe file with a stack.

    Raises:
        SpecError: Anything is wrong with the file or the folders it names.
    """
    spec, problems = validate(StackedSpec, data, file.name)
    mistakes.found += problems
    if spec is None:
        raise SpecError(mistakes.found)
    mistakes.allow = spec.allow or ()
    models = open_sources(spec.sources, file.parent, mistakes)
    refuse_misfits(models, mistakes, same_depth=False)
    for key, name in spec.stack.named:
        if name not in spec.sources:
            hint = did_you_mean(name, list(spec.sources))
            mistakes.add(f"stack.{key}", f"unknown source {name!r}{hint}")
    if spec.frame is not None and spec.frame not in spec.sources:
        hint = did_you_mean(spec.frame, list(spec.sources))
        mistakes.add("frame", f"unknown source {spec.frame!r}{hint}")
    mistakes.stop_if_any()
    try:
        layers = _layers(spec.stack, models)
        _check(layers, models, mistakes)
        mistakes.stop_if_any()
        frame = spec.frame or layers[0].source
        dtype = spec.dtype or kept_dtype(models, frame)
        recipe = recipe_of(
            layers,
            Frame(
                frame=frame,
                dtype=dtype,
                inputs={name: input_of(model) for name, model in models.items()},
                outputs=_outputs(layers, models, mistakes),
                embed=spec.stack.embed,
                head=spec.stack.head,
            ),
        )
        mistakes.stop_if_any()
    except RecipeError as error:
        mistakes.add("stack", f"{error}")
        raise SpecError(mistakes.found) from error
    note_tokenizers(models, recipe.frame, mistakes)
    return recipe, models


def _layers(spec: StackSpec, models: Mapping[str, Model]) -> tuple[Layer, ...]:
    if spec.slices is not None:
        return stack(Run(s.source, *s.layers, s.scale) for s in spec.slices)
    if spec.upscale is not None:
        taken = spec.upscale
        n = taken.n or models[taken.source].n_layers
        return upscale(taken.source, n, taken.overlap)
    assert spec.shuffle is not None
    drawn = spec.shuffle
    n = min((models[name].n_layers for name in drawn.donors), default=0)
    if drawn.points is not None:
        return switch(list(drawn.donors), n, drawn.points)
    return shuffle(drawn.donors, n, drawn.seed, full=drawn.full)


def _check(
    layers: tuple[Layer, ...], models: Mapping[str, Model], mistakes: Mistakes
) -> None:
    """Note layers that a source does not have."""
    for name, n in {
        layer.source: models[layer.source].n_layers for layer in layers
    }.items():
        highest = max(layer.index for layer in layers if layer.source == name)
        if highest >= n:
            mistakes.add(
                "stack",
                f"expected layers 0 to {n - 1} of {name!r}, got {highest}.",
            )


def _outputs(
    layers: tuple[Layer, ...], models: Mapping[str, Model], mistakes: Mistakes
) -> dict[str, tuple[str, ...]]:
    """Return by which tensors scaled layers write to the hidden state."""
    out: dict[str, tuple[str, ...]] = {}
    for name in dict.fromkeys(layer.source for layer in layers if layer.scale != 1.0):
        try:
            out[name] = writers(models[name])
        except RecipeError as error:
            mistakes.add("stack", f"expected a scale of 1 for {name!r}: {error}")
    return out
