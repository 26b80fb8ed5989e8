"""Can these models be merged entry by entry?"""

from collections.abc import Iterator, Mapping

from evomerge.checkpoints.layout import HEAD_WEIGHT
from evomerge.checkpoints.model import Model

_SIZES = (
    ("model_type", "architecture family"),
    ("hidden_size", "hidden size"),
    ("intermediate_size", "feed-forward size"),
    ("num_hidden_layers", "number of layers"),
    ("num_attention_heads", "number of attention heads"),
    ("num_key_value_heads", "number of key-value heads"),
    ("head_dim", "head size"),
    ("vocab_size", "vocabulary size"),
)


def compatibility(models: Mapping[str, Model]) -> list[str]:
    """List every reason why models cannot be merged layer by layer.

    Each model is compared with the first one; a head that only one of the two stores
    because the other ties it is no reason.

    Args:
        models: What each is called, to the model; the first is the yardstick.

    Returns:
        One sentence per problem, naming both models; empty if they fit.
    """
    (first, yardstick), *others = models.items()
    problems: list[str] = []
    for name, model in others:
        found = list(_config_problems((first, yardstick), (name, model)))
        # Different sizes explain different shapes; say the cause, not each symptom.
        found = found or list(_tensor_problems((first, yardstick), (name, model)))
        problems += found
        problems += _tokenizer_problems((first, yardstick), (name, model))
    return problems


Named = tuple[str, Model]


def _config_problems(one: Named, other: Named) -> Iterator[str]:
    for key, what in _SIZES:
        a, b = one[1].config.get(key), other[1].config.get(key)
        # A key that one file leaves out has a default here and there; shapes decide.
        if a is not None and b is not None and a != b:
            yield f"{other[0]!r} has {what} {b!r}, but {one[0]!r} has {a!r}."


def _tensor_problems(one: Named, other: Named) -> Iterator[str]:
    a, b = one[1].tensors, other[1].tensors
    for (name, has), (absent, lacks) in ((one, other), (other, one)):
        missing = sorted(set(has.tensors) - set(lacks.tensors) - {HEAD_WEIGHT})
        if missing:
            yield (
                f"{absent!r} lacks {len(missing)} tensors that {name!r} has, for "
                f"example {missing[0]!r}."
            )
    different = [n for n in a if n in b and a[n].shape != b[n].shape]
    if different:
        n = different[0]
        yield (
            f"{len(different)} tensors differ in shape, for example {n!r}: "
            f"{list(b[n].shape)} in {other[0]!r}, {list(a[n].shape)} in {one[0]!r}."
        )


def _tokenizer_problems(one: Named, other: Named) -> Iterator[str]:
    a, b = one[1].tokenizer_digest, other[1].tokenizer_digest
    if a and b and a != b:
        yield (
            f"{other[0]!r} and {one[0]!r} have different tokenizers: equal text would "
            "select different rows of the embedding. Use models of one vocabulary."
        )
