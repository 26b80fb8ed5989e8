"""Parts of a model beside its text decoder, told from the words of tensors' names.

Towers that see or hear, what joins them to the decoder, layers that predict further
tokens, and heads that give no tokens. They are no layers of the decoder: a merge takes
them over from its frame, unless it says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Collection

SECTION = "beside"
"""The section of tensors of such parts."""

_KINDS = (
    ("prediction", r"(mtp|nextn)(_.*)?|.*_mtp"),
    ("audio", r"(.*_)?(audio|speech|sound|talker|code2wav|token2wav)(_.*)?"),
    (
        "vision",
        r"(.*_)?(vision|visual|images?|img|vit|video|pixels?|vqmodel)(_.*)?"
        r"|vpm|patch_embed.*",
    ),
    (
        "projector",
        r"(.*_)?(projector|connector|resampler|q_?former|aligner|abstractor|merger)"
        r"(_.*)?|mlp1|mlp_AR|gated_cross_attn_layers|mm_.*|multi_?modal.*|modality_.*|query_tokens|language_projection"
        r"|perceiver(_.*)?",
    ),
    (
        "classifier",
        r"score|(pre_)?classifier|classification_head|qa_outputs|regression_layer"
        r"|sequence_summary|logits_proj"
        r"|(v|value|reward|rm|rank)_head",
    ),
)
KINDS = tuple(kind for kind, _ in _KINDS)
"""What such parts are called where a file speaks of them."""

_BEHIND = re.compile(r"(eh_proj|enorm|hnorm|shared_head|embed_tokens)\.")
"""What only a layer behind the last has, which predicts further tokens."""


def kind_of(name: str) -> str | None:
    """Return the kind of part that a tensor belongs to; None if to the decoder.

    Only the words before the first number count: within a layer they speak of it.
    """
    words = re.split(r"\.\d+\.", name, maxsplit=1)[0].split(".")
    if words[0] == "dense":
        return "classifier"  # of the whole model, before its labels (EuroBERT)
    for kind, pattern in _KINDS:
        if any(re.fullmatch(pattern, word) for word in words):
            return kind
    return None


def predicts(suffixes: Collection[str]) -> bool:
    """Tell whether names within a layer are those of one that predicts a token."""
    return any(map(_BEHIND.match, suffixes))
