"""Encoded bytes to pixels, and every way in which that fails said in words."""

from __future__ import annotations

import hashlib
import re
import struct
import warnings
from io import BytesIO

from PIL import Image, UnidentifiedImageError

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets.image_source import ImageSource

DECODER_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, RuntimeError, struct.error)
"""What Pillow's decoders raise on damaged files: each format reports damage in its own way."""


class BrokenImageError(VlmlakeError):
    """An image that is not there or cannot be decoded; says why, without its name."""


def open_image(source: ImageSource, sha256: str | None = None) -> Image.Image:
    """The image as RGB pixels, decoded in full and turned by no EXIF tag. sha256: of the bytes that were surveyed.

    Raises VlmlakeError naming an image that cannot be read, or is another than was surveyed.
    """
    try:
        content = read(source)
        if sha256 not in (None, hashlib.sha256(content).hexdigest()):
            raise VlmlakeError(f"the image {source.name} changed since the pass began: run again, for another run")
        return decode(content)
    except BrokenImageError as error:
        raise VlmlakeError(f"cannot read the image {source.name}: {error}") from error


def read(source: ImageSource) -> bytes:
    """The encoded bytes. Raises BrokenImageError."""
    try:
        return source.read()
    except OSError as error:
        raise BrokenImageError(error.strerror or str(error)) from error


def decode(content: bytes) -> Image.Image:
    """RGB pixels of the first frame. Raises BrokenImageError, for one of too many pixels before they are decoded."""
    if not content:
        raise BrokenImageError("the file is empty")
    # Of what is refused here Pillow warns. For good, as `catch_warnings` is not safe in threads.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    try:
        with Image.open(BytesIO(content)) as image:
            _require_pixels(image.width * image.height)
            pixels = image.convert("RGB")
    except UnidentifiedImageError as error:
        raise BrokenImageError("in no format that Pillow reads") from error
    except Image.DecompressionBombError as error:
        told = re.search(r"\d+", str(error))
        raise BrokenImageError(_too_many(int(told[0])) if told else str(error)) from error
    except DECODER_ERRORS as error:
        raise BrokenImageError(f"cannot be decoded: {error}") from error
    return pixels


def _require_pixels(count: int) -> None:
    if not count:
        raise BrokenImageError("no pixels in it")
    if Image.MAX_IMAGE_PIXELS is not None and count > Image.MAX_IMAGE_PIXELS:
        raise BrokenImageError(_too_many(count))


def _too_many(count: int) -> str:
    return f"{count:,} pixels, more than the {Image.MAX_IMAGE_PIXELS:,} that are read"
