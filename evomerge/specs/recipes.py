"""Recipe files: one decided merge, in a form of our own or in mergekit's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from evomerge.checkpoints import Model
from evomerge.core.recipes.recipe import (
    Recipe,
)
from evomerge.errors import Problem, SpecError
from evomerge.specs.canonical import read_canonical
from evomerge.specs.mergekit import (
    Profile,
    is_mergekit,
    other_file,
    read_documents_of,
)
from evomerge.specs.planning.planned import Setting
from evomerge.specs.planning.planner import plan_space
from evomerge.specs.reading.lines import Document, placed, placing
from evomerge.specs.reading.mistakes import Mistakes, validate
from evomerge.specs.reading.spec import Allowed, Name
from evomerge.specs.reading.yamlfile import read_documents
from evomerge.specs.schema.space import MergeSpec
from evomerge.specs.schema.study import Dtype, Statistics, Vocabulary
from evomerge.specs.sources import (
    common_layers,
    folders_of,
    kept_dtype,
    open_sources,
)
from evomerge.specs.stacks import read_stack
from evomerge.specs.vocabulary import check_source, settle


class RecipeSpec(MergeSpec):
    """The short form: a space with nothing open, and the folders it merges."""

    sources: dict[Name, str] = Field(
        min_length=1,
        description="Name to model folder, relative to the recipe file, or hub id, "
        "perhaps with `+` and an adapter.",
    )
    statistics: Statistics = Field(
        default_factory=dict,
        description="Kind of statistics to name of a source to the file that holds "
        "them.",
    )
    frame: Name | None = Field(
        default=None, description="The source that gives config and tokenizer."
    )
    dtype: Dtype | None = Field(
        default=None,
        description="Element type of the result, or `stored`: each tensor keeps its "
        "own. If not given the frame's, and `stored` where a source holds several.",
    )
    vocabulary: Vocabulary | None = Field(
        default=None,
        description="Whose tokens the merged model has, where tokenizers differ; not "
        "needed for sources of one tokenizer.",
    )
    allow: Allowed = None
    seed: int = Field(default=0, ge=0, description="Seed of operators that draw masks.")


Form = Literal["short", "canonical", "mergekit"]


@dataclass(frozen=True, slots=True)
class OpenedRecipe:
    """A recipe file with the models it names.

    Attributes:
        models: Input name to model; also sources of the file that nothing reads.
        form: How the file is written.
        warnings: What the user must see although nothing is refused.
        chat_template: Instead of the tokenizer's own, where the file asks for one.
        allow: Kinds of differences between the models that the file allows.
    """

    recipe: Recipe
    models: Mapping[str, Model]
    form: Form
    warnings: tuple[Problem, ...] = ()
    chat_template: str | None = None
    allow: tuple[str, ...] = ()

    @property
    def folders(self) -> dict[str, str]:
        """Fingerprint to folder."""
        return folders_of(self.models.values())


def load_recipe(
    path: str | Path, *, profile: Profile = "identical"
) -> tuple[Recipe, dict[str, str]]:
    """Read a recipe file of any form; see :func:`open_recipe`.

    Returns:
        The recipe, and fingerprint to folder for every input.

    Raises:
        SpecError: Anything is wrong with the file or the folders it names.
    """
    opened = open_recipe(path, profile=profile)
    return opened.recipe, opened.folders


def open_recipe(
    path: str | Path, *, profile: Profile = "identical", strict: bool = False
) -> OpenedRecipe:
    """Read a recipe file of any form.

    The canonical form is a recipe's JSON with ``paths:`` beside it, from the name of
    each input to its folder; the short form is :class:`RecipeSpec`, or with ``stack``
    :class:`StackedSpec`; a file with ``merge_method`` is mergekit's.

    Args:
        path: The file.
        profile: Of a mergekit file: whether what it does not say is as mergekit has it.
        strict: What would be a warning is a mistake.

    Raises:
        SpecError: Anything is wrong with the file or the folders it names.
    """
    file = Path(path)
    documents = read_documents(file)
    with placing(*documents):
        opened = _open(documents, file, profile, strict=strict)
    return replace(opened, warnings=placed(opened.warnings, documents))


def _open(
    documents: Sequence[Document], file: Path, profile: Profile, *, strict: bool
) -> OpenedRecipe:
    if len(documents) > 1 or is_mergekit(documents[0]):
        read = read_documents_of(documents, file, profile=profile, strict=strict)
        return OpenedRecipe(
            read.recipe,
            read.models,
            "mergekit",
            read.warnings,
            read.chat_template,
            read.allow,
        )
    (data,) = documents
    mistakes = Mistakes(file.name, strict=strict)
    if said := other_file(data):
        mistakes.add("", said)
        mistakes.stop_if_any()
    if "slots" in data:
        return _opened(*read_canonical(data, file, mistakes), "canonical", mistakes)
    if "stack" in data:
        return _opened(*read_stack(data, file, mistakes), "short", mistakes)
    return _short(data, file, mistakes)


def _opened(
    recipe: Recipe, models: Mapping[str, Model], form: Form, mistakes: Mistakes
) -> OpenedRecipe:
    told, allow = tuple(mistakes.warnings), tuple(mistakes.allow)
    return OpenedRecipe(recipe, models, form, told, allow=allow)


def _short(data: Mapping[str, Any], file: Path, mistakes: Mistakes) -> OpenedRecipe:
    spec, problems = validate(RecipeSpec, data, file.name)
    mistakes.found += problems
    if spec is None:
        raise SpecError(mistakes.found)
    mistakes.allow = spec.allow or ()
    mistakes.unknown = spec.unknown is not None
    models = open_sources(
        spec.sources, file.parent, mistakes, statistics=spec.statistics
    )
    names = list(spec.sources)
    experts = spec.experts or tuple(n for n in names if n != spec.base)
    spec = spec.model_copy(update={"experts": experts})
    frame = spec.frame or spec.base or (experts[0] if experts else names[0])
    for key, name in [
        ("frame", frame),
        *([] if spec.base is None else [("base", spec.base)]),
        *((f"experts.{i}", name) for i, name in enumerate(experts)),
    ]:
        if name not in spec.sources:
            mistakes.add(key, f"expected one of the sources {names}, got {name!r}.")
    check_source(spec.vocabulary, names, mistakes)
    inputs = settle(
        models, spec.vocabulary, base=spec.base, frame=frame, mistakes=mistakes
    )
    setting = Setting(
        inputs=inputs,
        n_layers=common_layers(models),
        frame=frame,
        dtype=spec.dtype or kept_dtype(models, frame),
        seed=spec.seed,
        models=models,
    )
    planned = plan_space(spec, setting, "", mistakes)
    if planned is not None and planned.space.axes:
        opened = ", ".join(axis.name for axis in planned.space.axes[:5])
        mistakes.add("", f"expected every choice decided, got open ones: {opened}.")
    mistakes.stop_if_any()
    assert planned is not None
    recipe = planned.blueprint.recipe({})
    return _opened(recipe, models, "short", mistakes)
