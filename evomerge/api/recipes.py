"""Turn recipe files of one form into another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from evomerge.errors import RecipeError
from evomerge.logs import say

if TYPE_CHECKING:
    from evomerge.specs.mergekit import Profile

Form = Literal["own", "mergekit", "canonical"]


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

    form: Form
    text: str
    digest: str
    losses: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def convert_recipe(
    file: Path,
    *,
    to: Form | None = None,
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
    from evomerge.checkpoints import remembered
    from evomerge.specs.canonical import canonical_text, own_text, yaml_text
    from evomerge.specs.mergekit import write_mergekit
    from evomerge.specs.recipes import open_recipe

    with remembered(cache_dir):
        opened = open_recipe(file, profile=profile, strict=strict)
    say(opened.warnings)
    recipe = opened.recipe
    form: Form = to or ("own" if opened.form == "mergekit" else "mergekit")
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
