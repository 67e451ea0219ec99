"""The exceptions that a user is meant to read: what was given, what was expected, what to do."""


class VlmlakeError(Exception):
    """Something outside the program that the user can put right; the command line prints it in one line and exits 2."""


class DamagedError(VlmlakeError):
    """Something in a lake is not as it was written; says which file."""


class UnknownNameError(VlmlakeError, KeyError):
    """A name that the lake does not hold; a KeyError too, so that `in` and `get` of a Lake work as in any mapping."""

    def __str__(self) -> str:
        return str(self.args[0])
