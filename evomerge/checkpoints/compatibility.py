"""Can these models be merged entry by entry?"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from evomerge.checkpoints.configs.families import (
    LAYER_COUNTS,
    are_one_family,
    family_of,
    read_sizes,
)
from evomerge.checkpoints.configs.meanings import (
    KINDS,
    SMALL,
    Difference,
    Meaning,
    differences,
)
from evomerge.checkpoints.layers.head import equal_bytes
from evomerge.checkpoints.layers.layout import Layout
from evomerge.checkpoints.layers.names import BUFFER
from evomerge.checkpoints.model import Model
from evomerge.checkpoints.tokenizer_notes import different_rows

_VOCABULARY = "vocab_size"
_HEADS = (
    ("num_attention_heads", "number of attention heads", "heads"),
    ("num_key_value_heads", "number of key-value heads", "key_value_heads"),
    ("head_dim", "head size", "head"),
)
"""What the shapes of fused or square matrices do not tell, and where it is read."""
_SIZES = (
    ("model_type", "architecture family"),
    ("hidden_size", "hidden size"),
    ("intermediate_size", "feed-forward size"),
    *((key, "number of layers") for key in LAYER_COUNTS),
    *((key, what) for key, what, _ in _HEADS),
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
    allow: Collection[str] = (),
) -> list[str]:
    """List every reason why models cannot be merged layer by layer.

    Each model is compared with the first one; a head that only one of the two stores
    because the other ties it is no reason, nor are tables that are worked out anew.

    Args:
        models: What each is called, to the model; the first is the yardstick.
        same_vocabulary: Compare tokenizers and the rows of embedding and head as well;
            False where rows are to be moved before the merge.
        same_depth: Compare layers one by one; False where layers are only set on each
            other, so that any layer must have a place in the first model's frame.
        allow: Kinds of differences in what weights compute that are no reason.

    Returns:
        One sentence per problem, naming both models; empty if they fit.
    """
    first, *others = models.items()
    problems: list[str] = []
    for other in others:
        left_out = [] if same_vocabulary else [_VOCABULARY]
        left_out += [] if same_depth else LAYER_COUNTS
        left_out += ["model_type"] if _is_one_family(first[1], other[1], allow) else []
        found = list(_config_problems(first, other, left_out))
        found += [] if same_depth else _stacks_problems(first, other)
        # Different sizes explain different shapes; say the cause, not each symptom.
        compare = _tensor_problems if same_depth else _stack_problems
        found = found or list(compare(first, other, same_vocabulary))
        found += [
            f"{odd.text}: {KINDS[odd.kind]}. To merge them all the same, say `allow: "
            f"[{odd.kind}]`."
            for odd in _meant(first, other, same_depth=same_depth)
            if odd.kind != "family" and not _is_remark(odd, allow)
        ]
        if same_vocabulary:
            found += _tokenizer_problems(first, other)
        problems += found
    return problems


def remarks(
    models: Mapping[str, Model],
    *,
    same_depth: bool = True,
    allow: Collection[str] = (),
) -> list[str]:
    """List what keeps models not apart, but must be seen.

    Args:
        models: As for ``compatibility``.
        same_depth: As for ``compatibility``.
        allow: Kinds of differences that are allowed, and told of here.

    Returns:
        One sentence per remark, naming both models.
    """
    first, *others = models.items()
    return [
        f"{odd.text}: {_consequence(odd, first[0])}."
        for other in others
        for odd in _meant(first, other, same_depth=same_depth)
        if _is_remark(odd, allow)
    ]


def _is_remark(odd: Difference, allow: Collection[str]) -> bool:
    return odd.is_doubt or odd.kind in SMALL or odd.kind in allow


def _consequence(odd: Difference, frame: str) -> str:
    if odd.is_doubt:
        return (
            "this family's defaults are not known, so make sure that both mean the same"
        )
    if odd.kind in SMALL:
        return "the merge has what its frame has"
    return f"{KINDS[odd.kind]}; it is allowed"


def _meant(one: Named, other: Named, *, same_depth: bool) -> list[Difference]:
    """Compare what models of one family compute; others are told apart by it."""
    a, b = (Meaning(n, m.decoder, m.layer_types) for n, m in (one, other))
    if not are_one_family(a.config, b.config):
        names = [str(model.config.get("model_type")) for model in (b, a)]
        said = f"{b.name!r} is of family {names[0]!r}, but {a.name!r} of {names[1]!r}"
        return [Difference("family", said)]
    return [*differences(a, b, same_depth=same_depth), *_tables(one, other)]


def _tables(one: Named, other: Named) -> Iterator[Difference]:
    """Compare tables of whole numbers, which are taken over from the frame."""
    like = one[1].layout
    ours, theirs = (
        {
            like.full_name(place.layer, place.suffix): model.tensors[name]
            for name, place in model.places.items()
            if place.role == BUFFER
            and place.layer is not None
            and name in model.tensors
            and len(model.tensors[name].shape) > 1
        }
        for _, model in (one, other)
    )
    both = [name for name in ours if name in theirs]
    odd = [name for name in both if not equal_bytes(ours[name], theirs[name])]
    if odd:
        yield Difference(
            "routing",
            f"{len(odd)} tables of whole numbers hold others in {other[0]!r} than in "
            f"{one[0]!r}, for example {odd[0]!r}",
        )


def _config_problems(
    one: Named, other: Named, left_out: Collection[str]
) -> Iterator[str]:
    for key, what in _SIZES:
        if key in left_out:
            continue
        a, b = _size(one[1], key), _size(other[1], key)
        # A key that one file leaves out has a default here and there; shapes decide.
        if a is not None and b is not None and a != b:
            insist = " To merge them all the same, say `allow: [family]`."
            said = insist if key == "model_type" else ""
            yield f"{other[0]!r} has {what} {b!r}, but {one[0]!r} has {a!r}.{said}"


def _is_one_family(one: Model, other: Model, allow: Collection[str]) -> bool:
    return "family" in allow or are_one_family(one.decoder, other.decoder)


def _size(model: Model, key: str) -> object:
    family = family_of(model.decoder)
    for name, _, attribute in _HEADS:
        if name == key and name in {*family.fields, *family.derived, *family.names}:
            return getattr(read_sizes(family.filled(model.decoder)), attribute)
    return model.decoder.get(key)


def _tensor_problems(one: Named, other: Named, rows_too: bool) -> Iterator[str]:
    like = one[1].layout
    a, b = _shapes(one[1], rows_too, like), _shapes(other[1], rows_too, like)
    heads = {like.head}
    for (name, has), (absent, lacks) in (
        ((one[0], a), (other[0], b)),
        ((other[0], b), (one[0], a)),
    ):
        if missing := sorted(has.keys() - lacks.keys() - heads):
            yield (
                f"{absent!r} lacks {len(missing)} tensors that {name!r} has, for "
                f"example {missing[0]!r}. Merge models of one architecture."
            )
    if different := [n for n in a if n in b and a[n] != b[n]]:
        n = different[0]
        yield (
            f"{len(different)} tensors differ in shape, for example {n!r}: "
            f"{list(b[n])} in {other[0]!r}, {list(a[n])} in {one[0]!r}. Merge models "
            "of one shape."
        )


def _stacks_problems(*models: Named) -> Iterator[str]:
    """Name models whose layers cannot be set on each other."""
    for name, model in models:
        if stacks := {kind.stack: 0 for kind in model.layer_types if kind.stack}:
            yield (
                f"{name!r} has layers of several stacks, or layers that run several "
                f"times ({', '.join(f'{stack}N' for stack in stacks)}): they cannot be "
                "set on each other. Merge such models layer by layer."
            )


def _stack_problems(one: Named, other: Named, rows_too: bool) -> Iterator[str]:
    """Compare what layers are made of, wherever they stand."""
    like = one[1].layout
    a, b = _parts(one[1], rows_too, like), _parts(other[1], rows_too, like)
    heads = {like.head}
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


def _parts(model: Model, rows_too: bool, like: Layout) -> dict[str, list[list[int]]]:
    """Return the shapes of every tensor by its name within its layer."""
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for name, shape in _shapes(model, rows_too, like).items():
        _, _, within = name.removeprefix(like.layers).partition(".")
        suffix = within if name.startswith(like.layers) else name
        shapes.setdefault(suffix, set()).add(shape)
    return {n: [list(shape) for shape in sorted(found)] for n, found in shapes.items()}


def _shapes(model: Model, rows_too: bool, like: Layout) -> dict[str, tuple[int, ...]]:
    """Return shapes of the text decoder's tensors, as another model calls them.

    Those of the vocabulary's matrices come without rows if asked.
    """
    layout = model.layout
    out: dict[str, tuple[int, ...]] = {}
    for name, info in model.tensors.items():
        place = model.places[name]
        if place.section == "beside":
            continue
        shape = info.shape
        if name in (layout.embed, layout.head) and not rows_too:
            shape = shape[1:]
        if place.layer is not None:
            out[like.full_name(place.layer, place.suffix)] = shape
        else:
            out[layout.name_in(like, name)] = shape
    return out


def _tokenizer_problems(one: Named, other: Named) -> Iterator[str]:
    if said := different_rows(one, other):
        yield said
