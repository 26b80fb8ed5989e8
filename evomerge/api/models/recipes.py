"""Recipe files: carried out as a model folder, or turned into another form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from evomerge.api.means import Means, Progress
from evomerge.api.models.mixtures import assemble
from evomerge.checkpoints import Model, remembered
from evomerge.checkpoints.finite import non_finite
from evomerge.errors import CandidateError, ExportError, RecipeError
from evomerge.logs import say
from evomerge.specs.canonical import canonical_text, own_text, yaml_text
from evomerge.specs.mergekit import Profile, write_mergekit
from evomerge.specs.mergekit.evolve import ConvertedStudy, EvolveOptions
from evomerge.specs.mergekit.evolve import convert_study as convert_to_study
from evomerge.specs.mergekit.mixture import open_mixture
from evomerge.specs.recipes import open_recipe
from evomerge.steps import BYTES, step

if TYPE_CHECKING:  # it loads torch
    from evomerge.merging.output.writer import Written

RecipeForm = Literal["own", "mergekit", "canonical"]


@dataclass(frozen=True, slots=True)
class Conversion:
    """A recipe in another form.

    Attributes:
        form: Which one.
        text: The file.
        digest: Names the recipe that was read.
        losses: What the text leaves out or changes, in sentences.
        notes: What to know beside.
    """

    form: RecipeForm
    text: str
    digest: str
    losses: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def convert_recipe(
    file: Path,
    *,
    to: RecipeForm | None = None,
    profile: Profile = "identical",
    strict: bool = False,
    lossy: bool = False,
    cache_dir: Path | None = None,
) -> Conversion:
    """Read a recipe file of any form and write it in another.

    Args:
        file: Of our own, or mergekit's.
        to: ``own`` is YAML with folders, ``canonical`` the JSON that the digest names;
            None takes mergekit's for a file of our own and ``own`` for mergekit's.
        profile: Of a mergekit file: ``identical`` gives mergekit's result; with
            ``default`` what it does not say is as in recipes of our own.
        strict: Refuse what would only be warned of: keys that mergekit passes over.
        lossy: Write what mergekit can say of a recipe that it cannot say in full.
        cache_dir: Where fingerprints are remembered between processes, if anywhere.

    Raises:
        SpecError: Anything is wrong with the file or the folders it names.
        RecipeError: The other form cannot express the recipe; the message says what.
    """
    with remembered(cache_dir):
        opened = open_recipe(file, profile=profile, strict=strict)
    say(opened.warnings)
    recipe = opened.recipe
    form: RecipeForm = to or ("own" if opened.form == "mergekit" else "mergekit")
    if form == "own":
        return Conversion(
            form, own_text(recipe, opened.models, opened.allow), recipe.digest
        )
    if form == "canonical":
        return Conversion(form, canonical_text(recipe), recipe.digest)
    written = write_mergekit(recipe, opened.models, opened.allow)
    if written.losses and not lossy:
        raise RecipeError(
            "A mergekit file cannot express this recipe:\n"
            + "\n".join(f"  {loss}" for loss in written.losses)
            + "\nAdd --lossy to write the rest, which is another merge."
        )
    text = yaml_text(written.data)
    return Conversion(form, text, recipe.digest, written.losses, written.notes)


def convert_study(
    config: Path, out: Path | None = None, options: EvolveOptions | None = None
) -> ConvertedStudy:
    """Turn a file of mergekit-evolve into a study file.

    Args:
        config: The file.
        out: File to write, which must not exist; None writes none, and relative paths
            start in the current folder.
        options: The command line of mergekit-evolve.

    Raises:
        SpecError: Anything is wrong with the file; carries every mistake.
        ExportError: ``out`` is there.
    """
    if out is not None and out.exists():
        raise ExportError(f"{out} is there already. Name another file, or remove it.")
    done = convert_to_study(config, Path() if out is None else out.parent, options)
    if out is not None:
        out.write_text(done.text, encoding="utf-8")
    return done


def merge(
    recipe_file: Path,
    out: Path,
    *,
    profile: Profile = "identical",
    strict: bool = False,
    means: Means | None = None,
    progress: Progress | None = None,
) -> Written:
    """Carry out one decided merge and write it as a model folder, with a card.

    Args:
        recipe_file: Of our own in either form, or mergekit's; or a mixture's, as
            mergekit-moe describes it.
        out: Folder to make.
        profile: Of a mergekit file: ``identical`` gives mergekit's result; with
            ``default`` what it does not say is as in recipes of our own.
        strict: Refuse what would only be warned of: keys that mergekit passes over.
        means: How it is computed and written.
        progress: Told written bytes and all bytes.

    Raises:
        SpecError: Anything is wrong with the recipe file or its folders.
        RecipeError: The models do not fit the recipe.
        CandidateError: The merged weights are not finite, or not defined.
        ExportError: The folder exists, or cannot be written.
        SetupError: There is no such device, or not enough memory.
    """
    means = means or Means()
    # Fingerprints are hashed outside of the interpreter: torch loads in the meantime.
    with (
        step("reading the recipe"),
        ThreadPoolExecutor(1) as aside,
        remembered(means.cache_dir),
    ):
        aside.submit(_load_arithmetic)
        mixture = open_mixture(recipe_file, strict=strict)
        if mixture is None:
            opened = open_recipe(recipe_file, profile=profile, strict=strict)
    if mixture is not None:
        return assemble(mixture, out, means=means, progress=progress)
    from evomerge.api.models.provenance import parents, versions
    from evomerge.export.card import CardFacts, card
    from evomerge.export.model import CARD_NAME

    # torch
    from evomerge.merging.devices import check_device, on_threads
    from evomerge.merging.materialise import merged_tensors
    from evomerge.merging.memory import check_memory, saying_memory_ran_out
    from evomerge.merging.output.writer import RECIPE_NAME, recipe_text, write_model
    from evomerge.merging.sources import Sources

    say(opened.warnings)
    recipe = opened.recipe
    if means.dtype is not None:
        recipe = replace(recipe, dtype=means.dtype)
    check_device(means.device)
    with (
        on_threads(means.threads),
        Sources(opened.folders, device=means.device) as sources,
        _naming_culprits(opened.models),
        saying_memory_ran_out(),
        step("merging and writing", unit=BYTES) as now,
    ):
        check_memory(recipe, sources, means.memory_bytes)
        facts = CardFacts(
            name=out.name,
            recipe=recipe,
            parents=parents(recipe, opened.models),
            versions=versions(),
            tensors=merged_tensors(recipe, sources),
            allow=opened.allow,
        )
        return write_model(
            recipe,
            sources,
            out,
            shard_bytes=means.shard_bytes,
            progress=progress or now.to,
            extra={
                **_template(opened.chat_template),
                CARD_NAME: card(facts),
                RECIPE_NAME: recipe_text(recipe, opened.allow),
            },
        )


def _template(text: str | None) -> dict[str, str]:
    return {} if text is None else {"chat_template.jinja": text}


def _load_arithmetic() -> None:
    import evomerge.merging.kernels.merge
    import evomerge.merging.output.writer  # noqa: F401 - loaded for later


@contextmanager
def _naming_culprits(models: Mapping[str, Model]) -> Iterator[None]:
    """Let an error over a merged tensor name the sources that are not finite.

    They are looked through only then: a merge that goes well reads them once.
    """
    try:
        yield
    except CandidateError as error:
        bad = {name: non_finite(model) for name, model in models.items()}
        said = " ".join(
            f"Source {name!r} at {models[name].path} holds NaN or infinity in "
            f"{_first(tensors)}. Repair it, or merge without it."
            for name, tensors in bad.items()
            if tensors
        )
        if not said:
            raise
        raise CandidateError(f"{error} {said}") from error


def _first(names: tuple[str, ...]) -> str:
    more = "" if len(names) == 1 else f" and {len(names) - 1} more"
    return f"{names[0]!r}{more}"
