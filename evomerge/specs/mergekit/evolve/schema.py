"""The keys of a mergekit-evolve file, as mergekit 0.1.5 has them.

mergekit-evolve passes over what it does not know; here that is a mistake, as a misspelt
key would search another space than was meant.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool

from evomerge.specs.reading.spec import Spec

Method = Literal["linear", "task_arithmetic", "ties", "dare_ties", "slerp"]


class GenomeSpec(Spec):
    """What is searched."""

    models: Annotated[tuple[Any, ...], Field(min_length=1)] = Field(
        description="The models, as in a merge of mergekit: become `sources`, and all "
        "but the base `space.experts`."
    )
    merge_method: Method = Field(
        description="`linear`, `task_arithmetic`, `ties`, `dare_ties` or `slerp`: "
        "`space.operator`, with mergekit's knobs."
    )
    base_model: Any = Field(
        default=None,
        description="`space.base`; of a method without one `frame`, if it is one of "
        "the models.",
    )
    tokenizer_source: Any = Field(
        default=None,
        description="`vocabulary`: `union`, `base`, or one of the models.",
    )
    layer_granularity: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="`by.groups` of every searched knob: so many layers share a "
        "value. With `smooth` it gives the number of control points.",
    )
    normalize: StrictBool | None = Field(
        default=None,
        description="The knob `normalize`; if not given true of `linear`, `ties` and "
        "`dare_ties`.",
    )
    allow_negative_weights: StrictBool = Field(
        default=False,
        description="Weights are searched from -2 to 2, and otherwise from 0 to 2. "
        "There no bound is set, and the sign is dropped.",
    )
    filters: tuple[str, ...] | None = Field(
        default=None,
        description="`[self_attn, mlp]` is `by.roles: split`. Other filters have no "
        "equal.",
    )
    smooth: StrictBool = Field(
        default=False, description="`by.depth` of every searched knob."
    )
    int8_mask: Any = Field(
        default=None,
        description="Changes nothing: mergekit-evolve always sets it, and it changes "
        "no result.",
    )


class EvolveTaskSpec(Spec):
    """A task that candidates are tested on."""

    name: str = Field(min_length=1, description="`tasks.*.task`.")
    weight: float = Field(
        default=1.0,
        description="The task's weight in `objectives.*.mean_of`. Tasks of negative "
        "weight are minimised: an objective of their own.",
    )
    metric: str = Field(
        default="acc,none",
        min_length=1,
        description="`tasks.*.metric`; the filter `none` is left out.",
    )


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class EvolveSpec(Spec):
    """A mergekit-evolve file."""

    genome: GenomeSpec = Field(description="What is searched: `sources` and `space`.")
    tasks: tuple[Annotated[EvolveTaskSpec, BeforeValidator(_named)], ...] = Field(
        description="Names, or mappings: `tasks` and `objectives`."
    )
    limit: Annotated[int, Field(gt=0)] | None = Field(
        default=None,
        description="`tasks.*.items.limit`, twice as many: half of them are searched "
        "on, half held out.",
    )
    num_fewshot: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="`tasks.*.num_fewshot`."
    )
    shuffle: StrictBool = Field(
        default=False,
        description="No equal: a hash of their content picks the items, the same ones "
        "for every candidate.",
    )
    random_init: StrictBool = Field(
        default=False,
        description="No equal: a search begins at the start of its space, here equal "
        "weights and density 1.",
    )
    apply_chat_template: StrictBool = Field(
        default=True, description="`tasks.*.apply_chat_template`; true if not given."
    )
    fewshot_as_multiturn: StrictBool = Field(
        default=True,
        description="No equal: where a chat template is applied, examples are turns "
        "of the chat.",
    )
