"""What fsspec makes of faults over HTTP: it asks once, and takes a failing host for a missing file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from aiohttp import ClientPayloadError, ClientResponseError, ClientTimeout, ServerDisconnectedError
from fsspec.exceptions import FSTimeoutError

from tests.servers import Cut, Drip, FaultyProxy, FileServer, Hang, Lose, Status, Truncate, every

CONTENT = bytes(range(256))


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[FaultyProxy]:
    (tmp_path / "key").write_bytes(CONTENT)
    with FileServer(tmp_path) as server, FaultyProxy(server.url) as proxy:
        yield proxy


@pytest.fixture
def fs():
    return fsspec.filesystem("http", skip_instance_cache=True, client_kwargs={"timeout": ClientTimeout(total=0.5)})


@pytest.mark.parametrize(
    ("fault", "error", "requests"),
    [
        (Status(404), FileNotFoundError, 1),
        (Status(403), ClientResponseError, 1),
        (Status(500), ClientResponseError, 1),
        (Status(503), ClientResponseError, 1),
        (Hang(60), FSTimeoutError, 1),
        (Drip(60), FSTimeoutError, 1),
        (Cut(9), ClientPayloadError, 1),
        (Lose(), ServerDisconnectedError, 2),
    ],
    ids=str,
)
def test_a_fault_while_reading(proxy: FaultyProxy, fs, fault, error: type[Exception], requests: int):
    proxy.rule = every(1, fault)
    with pytest.raises(error):
        fs.cat_file(f"{proxy.url}/key", start=0, end=100)
    assert proxy.requests == requests


def test_a_failing_host_looks_like_a_missing_file(proxy: FaultyProxy, fs):
    proxy.rule = every(1, Status(500))
    assert not fs.exists(f"{proxy.url}/key")
    with pytest.raises(FileNotFoundError):
        fs.info(f"{proxy.url}/key")


def test_a_truncated_range_passes_for_the_whole(proxy: FaultyProxy, fs):
    proxy.rule = every(1, Truncate(5))
    assert fs.cat_file(f"{proxy.url}/key", start=10, end=20) == CONTENT[10:15]


def test_a_host_without_ranges_sends_more_than_asked(tmp_path: Path, fs):
    (tmp_path / "key").write_bytes(CONTENT)
    with FileServer(tmp_path, ranges=False) as server:
        assert fs.cat_file(f"{server.url}/key", start=10, end=20) == CONTENT
