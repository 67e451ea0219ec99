"""Small files that carry the CRC-32C of their own bytes, so that one flipped bit anywhere in them is noticed.

A sealed file holds MARK and eight hexadecimal digits once, in a place that its format leaves free (a field of a JSON
object, a key-value pair of a Parquet footer): the CRC-32C of the file with eight zeros there. Readers that do not know
of it lose nothing.
"""

from __future__ import annotations

import re

import google_crc32c

MARK = "vlmlake-crc32c="
BLANK = MARK + "00000000"
"""What a file is made with before it is sealed."""

KEY = "seal"
"""The field that holds it."""

_PARQUET = re.compile(MARK.encode() + rb"([0-9a-f]{8})")
_JSON = re.compile(rb'(?<!\\)"seal": "' + MARK.encode() + rb'([0-9a-f]{8})"')
_MAGIC = b"PAR1"


def sealed(content: bytes) -> bytes:
    """The same file with its checksum in the place of BLANK, which its footer or a field must hold once."""
    place = _place(content)
    if place is None or content[slice(*place)] != b"0" * 8:
        raise ValueError(f"expected {BLANK} once in what is to be sealed")
    start, end = place
    return content[:start] + f"{google_crc32c.value(content):08x}".encode() + content[end:]


def is_whole(content: bytes) -> bool:
    """Whether a file is sealed, and as it was when it was."""
    place = _place(content)
    if place is None:
        return False
    start, end = place
    return int(google_crc32c.value(content[:start] + b"0" * 8 + content[end:])) == int(content[start:end], 16)


def _place(content: bytes) -> tuple[int, int] | None:
    """Where the eight digits are: in a Parquet file's footer, or in the field `seal` of a JSON object; texts that the
    file holds are not looked at.
    """
    first, pattern = 0, _JSON
    if content.endswith(_MAGIC):
        first, pattern = len(content) - 8 - int.from_bytes(content[-8:-4], "little"), _PARQUET
    found = list(pattern.finditer(content, max(0, first)))
    return found[0].span(1) if len(found) == 1 else None
