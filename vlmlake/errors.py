"""The one exception that a user is meant to read: what was given, what was expected, what to do."""


class VlmlakeError(Exception):
    """Something outside the program that the user can put right; the command line prints it in one line and exits 2."""
