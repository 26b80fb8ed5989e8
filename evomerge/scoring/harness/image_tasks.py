"""Tasks that show images: what of them is offered, and their images as values.

lm-eval gives a request the images that ``doc_to_image`` names; in the prompt, the text
``<image>`` stands for each. Data sets are read without decoding anything, so nothing of
an image is looked at before its file's size is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.core.work import TaskSettings
from evomerge.errors import NotAllowedError
from evomerge.scoring.harness.internals import ConfigurableTask
from evomerge.scoring.harness.task_index import wrong
from evomerge.scoring.images import ImageError, RgbImage, file_of

PLACEHOLDER = "<image>"
"""Stands for an image in a task's text, whatever the model's own token is."""


def shows_images(task: ConfigurableTask) -> bool:
    """Tell whether a task's prompts hold images."""
    return task.config.doc_to_image is not None


def refuse_unoffered(task: ConfigurableTask, settings: TaskSettings) -> None:
    """Refuse what lm-eval itself does not score with images, and sound.

    Raises:
        SpecError: Says what, and what to do.
    """
    name = repr(settings.task)
    if task.config.doc_to_audio:
        raise wrong(
            settings, f"{name} plays sound (doc_to_audio), which no engine hears."
        )
    if not shows_images(task):
        return
    if task.OUTPUT_TYPE != "generate_until":
        raise wrong(
            settings,
            f"{name} shows images (doc_to_image) and is {task.OUTPUT_TYPE}, which "
            "lm-eval does not score with images; write it as output_type: "
            "generate_until with metric exact_match.",
        )
    if task.config.num_fewshot:
        raise wrong(
            settings,
            f"{name} shows images, and lm-eval hands over those of the item alone, not "
            "of few-shot examples; set num_fewshot: 0.",
        )
    columns = _columns(task)
    unknown = [one for one in columns or () if one not in task.features]
    if columns == () or unknown:
        said = f"{unknown[0]!r}" if unknown else "nothing"
        raise wrong(
            settings,
            f"doc_to_image: expected columns of the data "
            f"({', '.join(map(str, task.features))}), got {said}.",
        )


def images_of(value: Any, folder: Path) -> tuple[RgbImage, ...]:
    """Read what ``doc_to_image`` gave for a document.

    Raises:
        ImageError: One is broken, too large or not there; the message says which.
    """
    values = value if isinstance(value, list | tuple) else [value]
    found = []
    for place, one in enumerate(one for one in values if one is not None):
        try:
            found.append(RgbImage.read(one, folder))
        except (ImageError, NotAllowedError) as error:
            raise ImageError(f"image {place}: {error}") from error
    return tuple(found)


def message_parts(text: str) -> list[dict[str, str]]:
    """Cut a message at its places of images, as lm-eval does."""
    first, *rest = text.split(PLACEHOLDER)
    parts = [{"type": "text", "text": first}] if first else []
    for part in rest:
        parts.append({"type": "image"})
        parts += [{"type": "text", "text": part}] if part else []
    return parts


def content(
    task: ConfigurableTask, doc: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Return a document whose images are named by their files' content.

    Raises:
        ImageError: A file is not there, or too large.
    """
    columns = _columns(task) or ()
    return {
        key: _named(value, folder, is_image=key in columns)
        for key, value in doc.items()
    }


def decoded(task: ConfigurableTask, doc: Mapping[str, Any], folder: Path) -> Any:
    """Return a document as the task's own functions expect it, images as Pillow's."""
    if _columns(task) is not None:
        return doc
    return {key: _decoded(value, folder) for key, value in doc.items()}


def _columns(task: ConfigurableTask) -> tuple[str, ...] | None:
    """Return the columns that hold a task's images; None if a function knows."""
    named = task.config.doc_to_image
    if isinstance(named, str):
        return (named,)
    return tuple(named) if isinstance(named, list) else None


def _is_stored(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {"bytes", "path"}


def _named(value: Any, folder: Path, *, is_image: bool) -> Any:
    if isinstance(value, list):
        return [_named(one, folder, is_image=is_image) for one in value]
    if value is None or not (is_image or _is_stored(value)):
        return value
    return {"image": hashlib.sha256(file_of(value, folder)).hexdigest()}


def _decoded(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_decoded(one, folder) for one in value]
    return RgbImage.read(value, folder).pixels() if _is_stored(value) else value
