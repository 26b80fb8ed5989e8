"""Can these models be merged entry by entry?"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from evomerge.checkpoints.model import Model
from evomerge.checkpoints.sizes import LAYER_COUNTS
from evomerge.checkpoints.tokenizer_notes import different_rows

_VOCABULARY = "vocab_size"
_SIZES = (
    ("model_type", "architecture family"),
    ("hidden_size", "hidden size"),
    ("intermediate_size", "feed-forward size"),
    *((key, "number of layers") for key in LAYER_COUNTS),
    ("num_attention_heads", "number of attention heads"),
    ("num_key_value_heads", "number of key-value heads"),
    ("head_dim", "head size"),
    ("num_local_experts", "number of experts"),
    ("num_experts", "number of experts"),
    (_VOCABULARY, "vocabulary size"),
)

Named = tuple[str, Model]


def compatibility(
    models: Mapping[str, Model],
    *,
    same_vocabulary: bool = True,
    same_depth: bool = True,
) -> list[str]:
    """List every reason why models cannot be merged layer by layer.

    Each model is compared with the first one; a head that only one of the two stores
    because the other ties it is no reason.

    Args:
        models: What each is called, to the model; the first is the yardstick.
        same_vocabulary: Compare tokenizers and the rows of embedding and head as well;
            False where rows are to be moved before the merge.
        same_depth: Compare layers one by one; False where layers are only set on each
            other, so that any layer must have a place in the first model's frame.

    Returns:
        One sentence per problem, naming both models; empty if they fit.
    """
    first, *others = models.items()
    problems: list[str] = []
    for other in others:
        left_out = [] if same_vocabulary else [_VOCABULARY]
        left_out += [] if same_depth else LAYER_COUNTS
        found = list(_config_problems(first, other, left_out))
        # Different sizes explain different shapes; say the cause, not each symptom.
        if same_depth:
            found = found or list(_tensor_problems(first, other, same_vocabulary))
            found += _layer_problems(first, other)
        else:
            found = found or list(_stack_problems(first, other, same_vocabulary))
            found += _type_problems(first, other)
        found += _rope_problems(first, other)
        if same_vocabulary:
            found += _tokenizer_problems(first, other)
        problems += found
    return problems


def _config_problems(
    one: Named, other: Named, left_out: Collection[str]
) -> Iterator[str]:
    for key, what in _SIZES:
        if key in left_out:
            continue
        a, b = one[1].config.get(key), other[1].config.get(key)
        # A key that one file leaves out has a default here and there; shapes decide.
        if a is not None and b is not None and a != b:
            yield f"{other[0]!r} has {what} {b!r}, but {one[0]!r} has {a!r}."


def _tensor_problems(one: Named, other: Named, rows_too: bool) -> Iterator[str]:
    a, b = _shapes(one[1], rows_too), _shapes(other[1], rows_too)
    heads = {one[1].layout.head, other[1].layout.head}
    for (name, has), (absent, lacks) in (
        ((one[0], a), (other[0], b)),
        ((other[0], b), (one[0], a)),
    ):
        if missing := sorted(has.keys() - lacks.keys() - heads):
            yield (
                f"{absent!r} lacks {len(missing)} tensors that {name!r} has, for "
                f"example {missing[0]!r}. Download it again, or merge models of one "
                "architecture."
            )
    if different := [n for n in a if n in b and a[n] != b[n]]:
        n = different[0]
        yield (
            f"{len(different)} tensors differ in shape, for example {n!r}: "
            f"{list(b[n])} in {other[0]!r}, {list(a[n])} in {one[0]!r}. Merge models "
            "of one shape."
        )


def _stack_problems(one: Named, other: Named, rows_too: bool) -> Iterator[str]:
    """Compare what layers are made of, wherever they stand."""
    a, b = _parts(one[1], rows_too), _parts(other[1], rows_too)
    heads = {one[1].layout.head, other[1].layout.head}
    for (name, has), (absent, lacks) in (
        ((one[0], a), (other[0], b)),
        ((other[0], b), (one[0], a)),
    ):
        if missing := sorted(has.keys() - lacks.keys() - heads):
            yield (
                f"No layer of {absent!r} has {missing[0]!r}, which layers of {name!r} "
                "have. Use models of one architecture."
            )
    if different := [n for n in a if n in b and a[n] != b[n]]:
        n = different[0]
        yield (
            f"{len(different)} tensors of a layer differ in shape, for example {n!r}: "
            f"{b[n]} in {other[0]!r}, {a[n]} in {one[0]!r}. Use models of one width."
        )


def _parts(model: Model, rows_too: bool) -> dict[str, list[list[int]]]:
    """Return the shapes of every tensor by its name within its layer."""
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for name, shape in _shapes(model, rows_too).items():
        place = model.places.get(name)
        shapes.setdefault(place.suffix if place else name, set()).add(shape)
    return {n: [list(shape) for shape in sorted(found)] for n, found in shapes.items()}


def _shapes(model: Model, rows_too: bool) -> dict[str, tuple[int, ...]]:
    """Return shapes by name; of the vocabulary's matrices without rows if asked."""
    out = {name: info.shape for name, info in model.tensors.items()}
    for name in (model.layout.embed, model.layout.head):
        if name in out and not rows_too:
            out[name] = out[name][1:]
    return out


def _layer_problems(one: Named, other: Named) -> Iterator[str]:
    ours, theirs = one[1].layer_types, other[1].layer_types
    if len(ours) != len(theirs):
        return
    odd = [i for i, kind in enumerate(ours) if not kind.fits(theirs[i])]
    if odd:
        i = odd[0]
        yield (
            f"{len(odd)} layers are of different types, for example layer {i}: "
            f"{theirs[i]} in {other[0]!r}, {ours[i]} in {one[0]!r}. Equal weights "
            "would compute something else."
        )


def _type_problems(one: Named, other: Named) -> Iterator[str]:
    ours = one[1].layer_types
    for i, kind in enumerate(other[1].layer_types):
        if not any(kind.fits(known) for known in ours):
            known = "; ".join(sorted({str(known) for known in ours}))
            yield (
                f"Layer {i} of {other[0]!r} has {kind}, but {one[0]!r} has no such "
                f"layers, only {known}: nothing could run it there."
            )
            return


def _rope_problems(one: Named, other: Named) -> Iterator[str]:
    a, b = _rope(one[1].config), _rope(other[1].config)
    for key in a:
        if key in b and a[key] != b[key]:
            yield (
                f"{other[0]!r} has rotary positions with {key} {b[key]!r}, but "
                f"{one[0]!r} with {a[key]!r}: equal weights would see other positions."
            )


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read the settings of rotary positions, in old and in new notation alike.

    Settings for sliding layers alone have names of their own; what is left out is not
    compared, except that positions are not rescaled unless it says so.
    """
    found = config.get("rope_parameters")
    parameters = found if isinstance(found, dict) else {}
    out = _flat(parameters.get("full_attention", parameters))
    sliding = parameters.get("sliding_attention")
    if isinstance(sliding, dict):
        out |= {f"sliding {key}": value for key, value in _flat(sliding).items()}
    scaling = config.get("rope_scaling")
    if isinstance(scaling, dict):
        out |= _flat(scaling)
    for key, name in (
        ("rope_theta", "rope_theta"),
        ("rotary_emb_base", "rope_theta"),
        ("rope_local_base_freq", "sliding rope_theta"),
        ("partial_rotary_factor", "partial_rotary_factor"),
    ):
        if isinstance(config.get(key), int | float):
            out.setdefault(name, config[key])
    if out:
        out.setdefault("rope_type", "default")
    return out


def _flat(settings: Any) -> dict[str, Any]:
    if not isinstance(settings, dict):
        return {}
    plain = {k: v for k, v in settings.items() if not isinstance(v, dict)}
    if "type" in plain:
        plain.setdefault("rope_type", plain.pop("type"))
    return plain


def _tokenizer_problems(one: Named, other: Named) -> Iterator[str]:
    if said := different_rows(one, other):
        yield said
