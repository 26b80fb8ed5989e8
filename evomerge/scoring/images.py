"""Images of tasks: read as files of strangers, and named by their content.

The harness reads them when prompts are written; engines get them with a request. What
is kept is the file as it was, which is smaller than its pixels. Knows no lm-eval.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.core.digest import digest
from evomerge.core.policy import refuse_outside

MAX_BYTES = 32 << 20
"""Longest image file read."""
MAX_PIXELS = 1 << 25
"""Most pixels of an image: 100 MB once they are decoded."""
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "WEBP")
"""What is decoded: formats of pixels, none that another program draws."""


class ImageError(ValueError):
    """An image cannot be read, or is too large."""


@dataclass(frozen=True, slots=True)
class RgbImage:
    """An image that was looked through: it decodes, and is not too large.

    Attributes:
        digest: SHA-256 of its file.
        data: Its file.
    """

    digest: str
    data: bytes = field(repr=False, compare=False)

    @classmethod
    def read(cls, value: Any, folder: Path) -> RgbImage:
        """Read what a data set holds as an image, and decode it once.

        Args:
            value: A file's bytes; its name; a mapping of both, as data sets store
                images; or an image of Pillow's, as code makes them.
            folder: Where names are looked up.

        Raises:
            ImageError: It is none of these, or broken, or too large.
            NotAllowedError: The file lies where the policy in force reads nothing.
        """
        data = file_of(value, folder)
        image = cls(hashlib.sha256(data).hexdigest(), data)
        image.pixels()
        return image

    def pixels(self) -> Any:
        """Return a Pillow image, mode RGB, upright.

        Raises:
            ImageError: It is broken, or too large.
        """
        from PIL import Image, ImageOps

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the size is looked at here
                image = Image.open(io.BytesIO(self.data), formats=FORMATS)
                if image.width * image.height > MAX_PIXELS:
                    raise ImageError(
                        f"expected an image of at most {MAX_PIXELS} pixels, got "
                        f"{image.width} x {image.height}; make it smaller"
                    )
                # As data sets do: cameras store how they were held.
                return ImageOps.exif_transpose(image).convert("RGB")
        except ImageError:
            raise
        except Exception as error:  # decoders raise what they like at broken files
            raise ImageError(
                f"expected an image ({', '.join(FORMATS)}), got {len(self.data)} bytes "
                f"that cannot be decoded: {type(error).__name__}: {error}"
            ) from error


@dataclass(frozen=True, slots=True)
class ImagePrompt:
    """A prompt with images, before it is tokens.

    Attributes:
        text: Has the model's image token once for each image, where it stands.
        images: In the order of their places.
    """

    text: str
    images: tuple[RgbImage, ...]


def file_of(value: Any, folder: Path) -> bytes:
    """Return the file of an image; see ``RgbImage.read``."""
    if isinstance(value, Mapping) and value.keys() <= {"bytes", "path"}:
        found = value.get("bytes")
        return file_of(value.get("path") if found is None else found, folder)
    if isinstance(value, bytes | bytearray):
        data = bytes(value)
    elif isinstance(value, str) and "\0" not in value:
        path = folder / value
        refuse_outside(path)
        if not path.is_file():
            raise ImageError(f"expected an image's file, got {value!r:.200}: not there")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    elif hasattr(value, "tobytes") and hasattr(value, "save"):
        written = io.BytesIO()
        value.convert("RGB").save(written, "PNG")
        data = written.getvalue()
    else:
        raise ImageError(
            f"expected an image: a file's bytes or its name, got {value!r:.80}"
        )
    if len(data) > MAX_BYTES:
        raise ImageError(f"expected an image of at most {MAX_BYTES} bytes, got more")
    return data


def processor_digest(folder: str) -> str | None:
    """Name what prepares prompts with images by its files; None if there are none."""
    from evomerge.merging.output.writer import COPIED, PROCESSORS

    found = {name: Path(folder) / name for name in COPIED}
    files = {name: path for name, path in found.items() if path.is_file()}
    if files.keys().isdisjoint(PROCESSORS):
        return None
    return digest(
        {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in files.items()}
    )


def made_up() -> tuple[RgbImage, ...]:
    """Return two fixed images that differ everywhere, 48 x 32 pixels."""
    from PIL import Image

    found = []
    for sign in (1, -1):
        image = Image.new("RGB", (48, 32))
        image.putdata(
            [
                (sign * 5 * x % 256, (7 * y + 40 * sign) % 256, sign * (x + y) % 256)
                for y in range(image.height)
                for x in range(image.width)
            ]
        )
        found.append(RgbImage.read(image, Path()))
    return tuple(found)
