"""The vocabulary of a merge: whose tokens the merged model has.

Models of one tokenizer need nothing said. Where tokenizers differ, the file names the
vocabulary, and every model whose rows are not in its order becomes a transformed input.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from evomerge.checkpoints import Model
from evomerge.checkpoints.alignment import (
    TRANSFORM,
    Plan,
    align,
    rows_of,
)
from evomerge.core.nearest import did_you_mean
from evomerge.core.recipes.recipe import Input, Transformed
from evomerge.errors import CheckpointError
from evomerge.specs.misfits import note_tokenizers, refuse_misfits
from evomerge.specs.reading.mistakes import Mistakes
from evomerge.specs.schema.study import VocabularySpec
from evomerge.specs.sources import (
    input_of,
)

BASE, UNION = "base", "union"


def check_source(
    wanted: VocabularySpec | None, names: Collection[str], mistakes: Mistakes
) -> None:
    """Note a vocabulary that is no source's.

    Args:
        wanted: What the file says of the vocabulary.
        names: Of all sources.
        mistakes: Where to note it.
    """
    known = [BASE, UNION, *names]
    if wanted is not None and wanted.source not in known:
        mistakes.add(
            "vocabulary.source",
            f"unknown source {wanted.source!r}{did_you_mean(wanted.source, known)}",
        )


def settle(
    models: Mapping[str, Model],
    wanted: VocabularySpec | None,
    *,
    base: str | None,
    frame: str,
    mistakes: Mistakes,
    same_depth: bool = True,
) -> dict[str, Input]:
    """Compare models, and return what recipes call each of them.

    Args:
        models: All that were read, by name.
        wanted: What the file says of the vocabulary.
        base: Name of the base, if there is one.
        frame: Name of the frame.
        mistakes: Where to note what is wrong.
        same_depth: Layers are merged one by one; False where they are only set on each
            other, in the frame.
    """
    plain: dict[str, Input] = {name: input_of(model) for name, model in models.items()}
    plan = _plan(models, wanted, base, frame)
    is_free = wanted is not None or plan is not None
    compared = dict(models)
    if not same_depth and frame in models:
        compared = {frame: models[frame], **models}
    refuse_misfits(
        compared, mistakes, same_vocabulary=not is_free, same_depth=same_depth
    )
    note_tokenizers(models, plan.donor if plan else frame, mistakes)
    if plan is None or mistakes.found:
        return plain
    try:
        return brought(models, plan)
    except CheckpointError as error:
        mistakes.add("vocabulary", f"expected one vocabulary for all: {error}")
        return plain


def brought(models: Mapping[str, Model], plan: Plan) -> dict[str, Input]:
    """Return what recipes call models that are brought to one vocabulary.

    A model that has the vocabulary already, row for row, is taken as it is.

    Raises:
        CheckpointError: A model has no ``tokenizer.json``, or no union can be made.
    """
    plain: dict[str, Input] = {name: input_of(model) for name, model in models.items()}
    alignment = align(models, plan)
    among, settings = tuple(plain.items()), plan.settings()
    return {
        name: source
        if name in alignment.unchanged
        else Transformed(source, TRANSFORM, alignment.statistics, settings, among)
        for name, source in plain.items()
    }


def _plan(
    models: Mapping[str, Model],
    wanted: VocabularySpec | None,
    base: str | None,
    frame: str,
) -> Plan | None:
    """Return the plan; None if the models are merged as they are, or not at all."""
    if wanted is None:
        donor = frame if _differ_in_padding(models) else None
        wanted = VocabularySpec(source=frame)
    elif wanted.source in (BASE, UNION):
        donor = base or frame
    else:
        donor = wanted.source
    if donor is None or not {donor, base or donor} <= models.keys():
        return None
    return Plan(
        donor,
        union=wanted.source == UNION,
        missing=wanted.missing,
        base=base,
        multiple=wanted.pad_to_multiple_of or 0,
    )


def _differ_in_padding(models: Mapping[str, Model]) -> bool:
    """Tell whether one tokenizer serves all, but rows after its tokens differ."""
    tokenizers = {model.vocabulary for model in models.values()}
    rows = {rows_of(model) for model in models.values()}
    return len(tokenizers) == 1 and "" not in tokenizers and len(rows) > 1
