"""Storage that answers late or with an error is asked again, a bounded number of times, ever later."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from vlmlake.errors import VlmlakeError, without_credentials

WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each further attempt, lengthened by up to a half, so that many workers do not come back at once."""

CLIENT_ERRORS = (
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("gcsfs.retry", "HttpError"),
    ("azure.core.exceptions", "AzureError"),
)
"""What the clients below fsspec raise without its being an OSError: (module, class)."""

FINAL = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
"""Answers rather than failures."""

REFUSALS = (400, 401, 403, 405, 501)
"""HTTP statuses that another attempt does not change."""

FORBIDDEN, NOT_SATISFIABLE = 403, 416
"""HTTP statuses: may not be seen, and asked for bytes behind a file's end."""

WITHOUT_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")
"""Classes of the clients' errors."""

Answer = TypeVar("Answer")


class BeyondEndError(VlmlakeError):
    """A file is shorter than the bytes that were asked of it. path: of the file."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} ends before the bytes that were asked for")
        self.path = path


def client_errors() -> Any:
    """OSError, and the classes of CLIENT_ERRORS whose package is in use: a tuple for `except`."""
    used = tuple(getattr(sys.modules[module], name) for module, name in CLIENT_ERRORS if module in sys.modules)
    return (OSError, *used)


def patiently(what: str, ask: Callable[[], Answer]) -> Answer:
    """The answer of `ask`, which is called up to 1 + len(WAITS) times while the storage fails.

    what: names the thing, for the error. FINAL errors are raised as they are.

    Raises VlmlakeError if it is refused, or if all attempts fail.
    """
    for wait in (*WAITS, None):
        try:
            return ask()
        except FINAL:
            raise
        except client_errors() as error:
            if refused(error):
                raise VlmlakeError(
                    f"{what}: {described(error)}. Credentials come from the environment, options from --storage-option"
                ) from None  # its own text, which a log would print, may hold credentials
            if wait is None:
                raise VlmlakeError(
                    f"{what}: no answer in {1 + len(WAITS)} attempts, the last: {described(error)}. Nothing that was "
                    "committed is lost; run the same command again to go on"
                ) from None
            time.sleep(wait * (1 + random.random() / 2))  # noqa: S311 - it only spreads the attempts
    raise AssertionError("not reached")


def refused(error: Exception) -> bool:
    """Whether another attempt cannot help: no permission, no credentials, a request that the server does not take."""
    no_credentials = type(error).__name__ in WITHOUT_CREDENTIALS
    return isinstance(error, PermissionError) or http_status(error) in REFUSALS or no_credentials


def http_status(error: BaseException) -> int | None:
    """What the server answered, where a client's error says so; s3fs keeps it in the error's cause."""
    for name in ("status", "code", "status_code"):
        if isinstance(told := getattr(error, name, None), int):
            return told
    answer = getattr(error.__cause__, "response", None)
    return answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(answer, dict) else None


def described(error: Any) -> str:
    """An error's class and words in one line, without credentials that a URL in it carries."""
    words = " ".join(without_credentials(str(error)).split())
    return f"{type(error).__name__}: {words}".rstrip(": ")
