"""Servers on loopback that tests talk to: S3, static files, and a proxy that makes either of them fail."""

from tests.servers.faults import (
    Cut,
    Drip,
    Flip,
    Hang,
    Lose,
    Request,
    Rule,
    Status,
    Truncate,
    every,
    first,
    matching,
)
from tests.servers.files import FileServer
from tests.servers.proxy import FaultyProxy
from tests.servers.s3 import S3Server

__all__ = [
    "S3Server",
    "FileServer",
    "FaultyProxy",
    "Request",
    "Rule",
    "Status",
    "Hang",
    "Lose",
    "Drip",
    "Cut",
    "Truncate",
    "Flip",
    "first",
    "every",
    "matching",
]
