"""The keys of a mergekit-moe file, as mergekit 0.1.5 has them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from evomerge.specs.reading.spec import Spec

Prompts = tuple[Annotated[str, StringConstraints(strip_whitespace=False)], ...]
"""Spaces at their ends are part of what is asked."""
GateMode = Literal[
    "hidden", "hidden_last", "hidden_avg", "cheap_embed", "random", "uniform_random"
]


class ExpertSpec(Spec):
    """One expert."""

    source_model: Any = Field(
        description="The model whose feed-forward blocks it has, as in a merge."
    )
    positive_prompts: Prompts | None = Field(
        default=None,
        description="Prompts of what is to be sent to it; needed unless the gate is "
        "random.",
    )
    negative_prompts: Prompts | None = Field(
        default=None, description="Prompts of what is not to be sent to it."
    )
    residual_scale: Annotated[float, Field(ge=0.0)] | None = Field(
        default=None, description="Factor on what it adds to the hidden state; 1."
    )
    noise_scale: Annotated[float, Field(ge=0.0)] | None = Field(
        default=None,
        description="Standard deviation of noise added to its weights; none.",
    )


class DrawSpec(Spec):
    """What mergekit-moe has no word for; it passes over this key."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        default=0, description="Seed of a random gate and of noise."
    )


class MixtureSpec(Spec):
    """A mergekit-moe file."""

    base_model: Any = Field(
        description="Gives attention, norms, embeddings and tokenizer."
    )
    gate_mode: GateMode = Field(
        default="hidden",
        description="How the router's rows come about: `hidden` by the hidden states "
        "at each layer's input after the last token of the prompts (`hidden_last` is "
        "the same), `hidden_avg` by their mean over all tokens, `cheap_embed` by the "
        "tokens' embeddings, the same in every layer; `random` by a normal "
        "distribution, `uniform_random` as a fresh layer begins.",
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, description="Element type of the weights; the base's."
    )
    experts_per_token: Annotated[int, Field(gt=0)] = Field(
        default=2, description="Experts that a token is sent to."
    )
    experts: tuple[ExpertSpec, ...] = Field(description="The experts, in order.")
    shared_experts: tuple[ExpertSpec, ...] | None = Field(
        default=None,
        description="One expert that every token is sent to; makes a Qwen2-MoE.",
    )
    architecture: str | None = Field(
        default=None,
        description="The result's family, or how its name begins: `mixtral`, `qwen`, "
        "`qwen3`; what the models allow, Mixtral first. `deepseek` is refused.",
    )
    evomerge: DrawSpec = Field(
        default_factory=DrawSpec,
        description="What mergekit-moe has no word for: `seed`.",
    )
