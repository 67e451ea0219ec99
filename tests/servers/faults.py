"""The ways in which a server can fail, and rules that say which requests do."""

from __future__ import annotations

import http.client
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """A request as a rule sees it; `body` is as it came over the wire."""

    method: str
    path: str
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def range(self) -> str | None:
        return self.headers["Range"]


@dataclass(frozen=True)
class Status:
    """Answer with an error of S3's form; the server behind never hears of the request."""

    code: int


@dataclass(frozen=True)
class Hang:
    """Hold the request for so long, then close without an answer; the server behind never hears of it."""

    seconds: float


@dataclass(frozen=True)
class Lose:
    """Forward the request, which takes effect, and close without an answer."""


@dataclass(frozen=True)
class Drip:
    """Send the first bytes of the answer's body, stall for so long, send the rest."""

    seconds: float


@dataclass(frozen=True)
class Cut:
    """Close the connection after so many bytes of the answer's body, fewer than its header promises."""

    bytes: int


@dataclass(frozen=True)
class Truncate:
    """Answer with only so many bytes of the body and a length that agrees with them."""

    bytes: int


@dataclass(frozen=True)
class Flip:
    """Turn over one bit of the request's body where it has one, of the answer's body otherwise."""

    bit: int


Fault = Status | Hang | Lose | Drip | Cut | Truncate | Flip
Match = Callable[[Request], bool]
Rule = Callable[[Request], Fault | None]


def matching(method: str | None = None, part_of_path: str = "") -> Match:
    """Requests of one method, or of any, whose path holds this text."""
    return lambda request: method in (None, request.method) and part_of_path in request.path


def first(n: int, fault: Fault, match: Match = matching()) -> Rule:  # noqa: B008
    """The first n requests that match."""
    return _counted(lambda number: number <= n, fault, match)


def every(n: int, fault: Fault, match: Match = matching()) -> Rule:  # noqa: B008
    """Each nth of the requests that match; `every(1, ...)` is all of them."""
    return _counted(lambda number: number % n == 0, fault, match)


def _counted(chosen: Callable[[int], bool], fault: Fault, match: Match) -> Rule:
    numbers, lock = itertools.count(1), threading.Lock()

    def rule(request: Request) -> Fault | None:
        if not match(request):
            return None
        with lock:
            return fault if chosen(next(numbers)) else None

    return rule
