"""The keys of a mergekit file, as mergekit 0.1.5 has them.

mergekit passes over what it does not know; here that is a warning, or with ``strict``
a mistake. Settings and references have several written forms; they are read in
``settings`` and ``references``.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, StrictBool, StrictInt

from evomerge.specs.reading.spec import Allowed, Name, Spec

Parameters = dict[str, Any]


class ModelSpec(Spec):
    """A whole model as an input."""

    model: Any = Field(description="The model: `path[@revision][+adapter[@revision]]`.")
    layer_range: Any = Field(
        default=None, description="Changes nothing: mergekit passes over it."
    )
    parameters: Parameters | None = Field(
        default=None, description="Settings of this input."
    )


class SourceSpec(Spec):
    """Some layers of a model as an input of a slice."""

    model: Any = Field(description="The model: `path[@revision][+adapter[@revision]]`.")
    layer_range: tuple[int, int] = Field(
        description="First layer, and the layer after the last."
    )
    parameters: Parameters | None = Field(
        default=None, description="Settings of this input."
    )


class SliceSpec(Spec):
    """Some layers of the result."""

    sources: tuple[SourceSpec, ...] = Field(
        min_length=1, description="What these layers are merged from."
    )
    base_model: Any = Field(default=None, description="The base of this slice.")
    parameters: Parameters | None = Field(
        default=None, description="Settings of this slice."
    )
    residual_weight: Any = Field(
        default=None,
        description="Changes nothing: mergekit reads it and does nothing with it.",
    )
    merge_method: Any = Field(
        default=None, description="Changes nothing: mergekit passes over it."
    )


class ModuleSpec(Spec):
    """One module of a model of several; a text model has one."""

    models: tuple[ModelSpec, ...] | None = Field(
        default=None, description="Whole models to merge."
    )
    slices: tuple[SliceSpec, ...] | None = Field(
        default=None, description="The result's layers, first to last."
    )
    parameters: Parameters | None = Field(
        default=None, description="Settings of this module."
    )
    merge_method: Any = Field(
        default=None, description="Changes nothing: mergekit passes over it."
    )


class TokenSpec(Spec):
    """Where the vector of one token comes from."""

    source: Any = Field(
        default=None,
        description="A model, `{kind: zero}`, or `{kind: model_token, model, token}`.",
    )
    force: StrictBool = Field(
        default=False, description="Also where an input has a vector for the token."
    )


class TokenizerSpec(Spec):
    """The vocabulary of the result."""

    source: Any = Field(
        default="union", description="`union`, `base`, or the model whose it is."
    )
    tokens: dict[str, TokenSpec | None] | None = Field(
        default=None, description="Tokens whose vectors are chosen."
    )
    pad_to_multiple_of: StrictInt | None = Field(
        default=None, gt=0, description="Rows of the embedding are a multiple of this."
    )


class OwnSpec(Spec):
    """What mergekit has no word for; it passes over this key."""

    inputs: dict[Name, str] | None = Field(
        default=None, description="Name to model, where the folder's name is not it."
    )
    frame: Name | None = Field(
        default=None, description="The input that gives config and tokenizer."
    )
    seed: StrictInt = Field(default=0, ge=0, description="Seed of random masks.")
    allow: Allowed = None


class MergekitSpec(Spec):
    """A mergekit file."""

    name: Any = Field(
        default=None, description="What later documents of the file call the result."
    )
    merge_method: str = Field(description="The method, the same for the whole merge.")
    models: tuple[ModelSpec, ...] | None = Field(
        default=None, description="Whole models to merge."
    )
    slices: tuple[SliceSpec, ...] | None = Field(
        default=None, description="The result's layers, first to last."
    )
    modules: dict[str, ModuleSpec] | None = Field(
        default=None, description="One entry, for the one module of a text model."
    )
    base_model: Any = Field(
        default=None,
        description="The base; also gives config and tokenizer.",
    )
    dtype: str | None = Field(
        default=None, description="Element type of the result, if out_dtype is none."
    )
    out_dtype: str | None = Field(
        default=None, description="Element type of the result."
    )
    parameters: Parameters | None = Field(
        default=None, description="Settings of the whole merge."
    )
    tokenizer_source: Any = Field(
        default=None, description="`union`, `base`, or the model whose vocabulary."
    )
    tokenizer: TokenizerSpec | None = Field(
        default=None, description="The vocabulary of the result."
    )
    chat_template: str | None = Field(
        default=None, description="`auto`, a known template's name, or Jinja."
    )
    evomerge: OwnSpec | None = Field(
        default=None, description="What mergekit has no word for; it passes over this."
    )
