"""The card of a mixture: which models are its experts, and what its router knows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from evomerge.core.mixture import DRAWN, Expert, Mixture
from evomerge.export.card import usage
from evomerge.export.markup import markdown, table
from evomerge.export.parents import Parent, front_matter, licences, parents_table

_PROMPT = 60
"""Characters of a prompt that are shown."""


def mixture_card(
    name: str,
    mixture: Mixture,
    parents: Sequence[Parent],
    versions: Mapping[str, str],
    alike: Sequence[int] = (),
) -> str:
    """Write the card of a mixture.

    Args:
        name: What the model is called.
        mixture: What it is made of.
        parents: The models, with what is known of them.
        versions: Program or library to its version.
        alike: Layers whose rows are so alike that experts are hardly told apart.
    """
    base = markdown(mixture.base)
    opening = (
        f"A mixture of {len(mixture.experts)} experts assembled from dense models, "
        "without further training. Attention, norms, embeddings and tokenizer are "
        f"those of **{base}**; each token is sent to {mixture.per_token}."
    )
    parts = [front_matter(parents, None), f"# {markdown(name)}", opening]
    parts += ["## Parents", parents_table(parents), licences(parents)]
    parts += ["## Experts", _experts(mixture), _router(mixture, alike)]
    parts += ["## Is it better?", "Unknown: nothing was scored."]
    text = json.dumps(mixture.to_json(), indent=1, ensure_ascii=True)
    parts += [
        "## Recipe",
        f"Weights are {mixture.dtype}. Digest: `{mixture.digest}`. `recipe.json` holds "
        "all of it; with the folders (`paths:`) beside, it can be assembled again.",
    ]
    if len(text) <= 60_000:
        whole = f"```json\n{text}\n```"
        summary = "<details><summary>The recipe as JSON</summary>"
        parts += [summary, whole, "</details>"]
    rows = [(markdown(k), markdown(v)) for k, v in sorted(versions.items())]
    parts += ["## Made with", table(("program", "version"), rows)]
    parts += ["## Use", usage(name)]
    return "\n\n".join(parts) + "\n"


def _experts(mixture: Mixture) -> str:
    rows = [(str(i), *_expert(expert)) for i, expert in enumerate(mixture.experts)]
    if mixture.shared is not None:
        rows.append(("shared", *_expert(mixture.shared)))
    head = ("expert", "feed-forward blocks of", "prompts", "not", "scale", "noise")
    return table(head, rows)


def _expert(expert: Expert) -> tuple[str, ...]:
    return (
        markdown(expert.source),
        _prompts(expert.positive),
        _prompts(expert.negative),
        f"{expert.residual_scale:g}",
        f"{expert.noise_scale:g}",
    )


def _prompts(prompts: Sequence[str]) -> str:
    if not prompts:
        return ""
    first = prompts[0].replace("\n", " ")
    cut = first if len(first) <= _PROMPT else first[:_PROMPT] + "..."
    more = f" and {len(prompts) - 1} more" if len(prompts) > 1 else ""
    return markdown(cut) + more


def _router(mixture: Mixture, alike: Sequence[int]) -> str:
    how = {
        "hidden": "the base's hidden states after each expert's prompts",
        "hidden_avg": "the base's mean hidden states over each expert's prompts",
        "cheap_embed": "the embeddings of the tokens of each expert's prompts",
    }
    if mixture.gate in DRAWN:
        return (
            f"The router is drawn at random (seed {mixture.seed}): the model is to be "
            "trained further."
        )
    said = f"The router's rows are {how[mixture.gate]}, and were not trained."
    if alike:
        said += (
            f" In {len(alike)} layers they are so alike (condition number above 5) "
            "that experts are hardly told apart."
        )
    return said
