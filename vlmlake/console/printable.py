"""Text from elsewhere, so that it cannot drive a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with every character that does not print, control characters among them, as its escape."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
