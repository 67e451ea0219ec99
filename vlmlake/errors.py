"""The exceptions that a user is meant to read: what was given, what was expected, what to do."""

from __future__ import annotations

import re

_USER = re.compile(r"(?<=://)[^/\s'\"]+@")
_QUERY = re.compile(r"(://[^\s?'\"]*)\?[^\s'\"]*")


class VlmlakeError(Exception):
    """Something outside the program that the user can put right; the command line prints it in one line and exits 2.

    Its text holds no credentials that a URL in it carries.
    """

    def __str__(self) -> str:
        return without_credentials(super().__str__())


class DamagedError(VlmlakeError):
    """Something in a lake is not as it was written; says which file."""


class NotKeptError(VlmlakeError):
    """A run was extracted without what is asked of it; says how to extract it."""


class DamageWarning(UserWarning):
    """Examples are left out because what held them was lost."""


class UnknownNameError(VlmlakeError, KeyError):
    """A name that the lake does not hold; a KeyError too, so that `in` and `get` of a Lake work as in any mapping."""

    def __str__(self) -> str:
        return without_credentials(str(self.args[0]))


def without_credentials(text: str) -> str:
    """The text with user names, passwords and queries taken out of its URLs."""
    return _QUERY.sub(r"\1", _USER.sub("", text))
