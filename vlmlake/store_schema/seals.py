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

_SEAL = re.compile(MARK.encode() + rb"([0-9a-f]{8})")


def sealed(content: bytes) -> bytes:
    """The same file with its checksum in the place of BLANK, which it must hold once."""
    if content.count(BLANK.encode()) != 1:
        raise ValueError(f"expected {BLANK} once in what is to be sealed")
    return content.replace(BLANK.encode(), f"{MARK}{google_crc32c.value(content):08x}".encode())


def is_whole(content: bytes) -> bool:
    """Whether a file is sealed, and as it was when it was."""
    found = list(_SEAL.finditer(content))
    if len(found) != 1:
        return False
    start, end = found[0].span(1)
    return int(google_crc32c.value(content[:start] + b"0" * 8 + content[end:])) == int(found[0][1], 16)
