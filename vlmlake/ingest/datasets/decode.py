"""Encoded bytes to pixels, and every way in which that fails said in words."""

from __future__ import annotations

import struct
from io import BytesIO

from PIL import Image, UnidentifiedImageError

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets.image_source import ImageSource

DECODER_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, RuntimeError, struct.error)
"""What Pillow's decoders raise on damaged files: each format reports damage in its own way."""


class BrokenImageError(VlmlakeError):
    """An image that is not there or cannot be decoded; says why, without its name."""


def open_image(source: ImageSource) -> Image.Image:
    """The image as RGB pixels, decoded in full and turned by no EXIF tag. Raises VlmlakeError naming it."""
    try:
        return decode(read(source))
    except BrokenImageError as error:
        raise VlmlakeError(f"cannot read the image {source.name}: {error}") from error


def read(source: ImageSource) -> bytes:
    """The encoded bytes. Raises BrokenImageError."""
    try:
        return source.read()
    except OSError as error:
        raise BrokenImageError(error.strerror or str(error)) from error


def decode(content: bytes) -> Image.Image:
    """RGB pixels of the first frame. Raises BrokenImageError."""
    if not content:
        raise BrokenImageError("the file is empty")
    try:
        with Image.open(BytesIO(content)) as image:
            pixels = image.convert("RGB")
    except UnidentifiedImageError as error:
        raise BrokenImageError("in no format that Pillow reads") from error
    except Image.DecompressionBombError as error:
        raise BrokenImageError(f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels") from error
    except DECODER_ERRORS as error:
        raise BrokenImageError(f"cannot be decoded: {error}") from error
    if 0 in pixels.size:
        raise BrokenImageError("no pixels in it")
    return pixels
