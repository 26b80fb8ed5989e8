"""A model folder's own processor: text and images become tokens and tensors.

transformers prepares images with Pillow and numpy where there is no torchvision, which
this project does without. Processors that also take videos ask for torchvision for
those alone, so they are given nothing for videos.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers.image_processing_base import ImageProcessingMixin

from evomerge.errors import CheckpointError, RequestError
from evomerge.merging.output.writer import PROCESSORS
from evomerge.scoring.images import ImagePrompt, processor_digest

KEPT_BYTES = 256 << 20
"""Prepared images kept from one candidate to the next."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as a model reads it.

    Attributes:
        tokens: Token ids, those that stand for images included.
        tensors: Arguments of the model, by name, each of one row or of the images of
            one prompt; ``input_ids`` is among them.
    """

    tokens: tuple[int, ...]
    tensors: Mapping[str, torch.Tensor]

    @property
    def shapes(self) -> tuple[tuple[str, torch.Size], ...]:
        """What must be equal for prompts to be put together without padding."""
        return tuple((name, one.shape[1:]) for name, one in self.tensors.items())


class Processor:
    """Prepares prompts with images as transformers does; not thread-safe.

    Attributes:
        image_token: Text that stands for an image.
        chat_template: The template that knows of images; None if there is none.
        digest: Of the files that say how prompts are prepared.
    """

    def __init__(self, folder: str) -> None:
        """Load the processor of a folder.

        Raises:
            CheckpointError: There is none, or it cannot be used here; the message says
                why, and what to do.
        """
        self._inner = _load(folder)
        tokenizer = self._inner.tokenizer
        self.image_token = str(
            getattr(self._inner, "image_token", None)
            or getattr(tokenizer, "image_token", None)
            or ""
        )
        if not self.image_token:
            raise CheckpointError(
                f"{folder}: {type(self._inner).__name__} does not say which text "
                "stands for an image; add image_token to tokenizer_config.json, as the "
                "published model has it."
            )
        self.chat_template = (
            getattr(self._inner, "chat_template", None) or tokenizer.chat_template
        )
        self.digest = processor_digest(folder)
        self._begin = tokenizer.bos_token
        self._kept: OrderedDict[ImagePrompt, Encoded] = OrderedDict()
        self._kept_bytes = 0

    def encode(self, prompt: ImagePrompt) -> Encoded:
        """Turn a prompt into tokens and tensors; tensors are shared, do not write.

        Raises:
            RequestError: It has another number of images than of their places, or the
                processor takes none such.
        """
        found = self._kept.get(prompt)
        if found is not None:
            self._kept.move_to_end(prompt)
            return found
        n_places = prompt.text.count(self.image_token)
        if n_places != len(prompt.images):
            raise RequestError(
                f"expected one image for each {self.image_token!r} of the prompt, got "
                f"{len(prompt.images)} images and {n_places} places; write <image> in "
                "doc_to_text once for each image"
            )
        found = self._encoded(prompt)
        size = sum(one.nbytes for one in found.tensors.values())
        self._kept[prompt] = found
        self._kept_bytes += size
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            _, old = self._kept.popitem(last=False)
            self._kept_bytes -= sum(one.nbytes for one in old.tensors.values())
        return found

    def _encoded(self, prompt: ImagePrompt) -> Encoded:
        # A chat template may write the begin token itself; it is not to come twice.
        begins = bool(self._begin) and prompt.text.startswith(self._begin)
        ways = {"add_special_tokens": False} if begins else {}
        try:
            made = self._inner(
                text=prompt.text,
                images=[image.pixels() for image in prompt.images],
                return_tensors="pt",
                **ways,
            )
        except (ValueError, TypeError, LookupError, RuntimeError) as error:
            raise RequestError(
                f"{type(self._inner).__name__} cannot prepare the images: "
                f"{type(error).__name__}: {error}"
            ) from error
        tensors = {name: one for name, one in made.items() if name != "labels"}
        return Encoded(tuple(tensors["input_ids"][0].tolist()), tensors)


def _files(folder: str) -> dict[str, Path]:
    files = {name: Path(folder) / name for name in PROCESSORS}
    return {name: path for name, path in files.items() if path.is_file()}


def _load(folder: str) -> Any:
    from transformers import AutoProcessor, ProcessorMixin

    if not _files(folder):
        raise CheckpointError(
            f"{folder} has no file that says how images are prepared "
            f"({', '.join(PROCESSORS[:2])}), so no image can be shown to it; copy "
            "them from the published model."
        )
    try:
        with _without_videos():
            found = AutoProcessor.from_pretrained(folder, local_files_only=True)
    except ImportError as error:
        said = " ".join(str(error).split())
        raise CheckpointError(
            f"{folder}: its processor needs a library that is not installed: "
            f"{said:.200}. Take a model whose processor needs none (docs/models.md, "
            "Images), or tasks without images."
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"{folder}: transformers cannot load its processor: "
            f"{type(error).__name__}: {error}. Compare its {PROCESSORS[0]} and "
            f"{PROCESSORS[1]} with those of the published model."
        ) from error
    sees = getattr(found, "image_processor", None) is not None
    if not isinstance(found, ProcessorMixin) or not sees:
        raise CheckpointError(
            f"{folder}: {type(found).__name__} prepares no images; take tasks without "
            "images, or copy the processor's files from the published model."
        )
    return found


class NoVideos(ImageProcessingMixin):
    """Stands where a processor has the part for videos; nobody shows it one."""

    model_input_names: ClassVar[list[str]] = []

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> NoVideos:
        """Return one, whatever the folder says of videos."""
        del args, kwargs
        return cls()


@contextmanager
def _without_videos() -> Iterator[None]:
    """Let processors be made that would have torchvision for videos."""
    from transformers import processing_utils as of_hf
    from transformers.utils import is_torchvision_available

    if is_torchvision_available():
        yield
        return
    classes: dict[str, Any] = of_hf.MODALITY_TO_BASE_CLASS_MAPPING
    loaders = of_hf.MODALITY_TO_AUTOPROCESSOR_MAPPING._MAPPING_NAMES
    before = classes["video_processor"], loaders["video_processor"]
    classes["video_processor"] = classes["image_processor"]
    loaders["video_processor"] = (__name__, NoVideos.__name__)
    try:
        yield
    finally:
        classes["video_processor"], loaders["video_processor"] = before
