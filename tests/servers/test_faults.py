"""Rules, and what each fault does to an answer, seen by a plain HTTP client in front of the file server."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.servers import (
    Cut,
    Drip,
    FaultyProxy,
    FileServer,
    Flip,
    Hang,
    Lose,
    Request,
    Status,
    Truncate,
    every,
    first,
    matching,
)

CONTENT = bytes(range(256))
FAULT = Status(503)


def request(method: str = "GET", path: str = "/a") -> Request:
    return Request(method, path, http.client.HTTPMessage(), b"")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "a").write_bytes(CONTENT)
    with FileServer(tmp_path) as server:
        yield server


@pytest.fixture
def proxy(server: FileServer) -> Iterator[FaultyProxy]:
    with FaultyProxy(server.url) as proxy:
        yield proxy


def ask(proxy: FaultyProxy, method: str = "GET", path: str = "/a", timeout: float = 10, **headers: str):
    with closing(http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=timeout)) as connection:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()


def test_the_first_requests_fail():
    rule = first(2, FAULT)
    assert [rule(request()) for _ in range(4)] == [FAULT, FAULT, None, None]


def test_every_third_request_fails():
    rule = every(3, FAULT)
    assert [rule(request()) for _ in range(6)] == [None, None, FAULT, None, None, FAULT]


def test_only_requests_that_match_are_counted():
    rule = first(1, FAULT, matching("PUT", "chunk"))
    paths = [("GET", "/chunk"), ("PUT", "/meta"), ("PUT", "/chunk/0"), ("PUT", "/chunk/1")]
    assert [rule(request(*path)) for path in paths] == [None, None, FAULT, None]


def test_without_a_rule_everything_passes(proxy: FaultyProxy, server: FileServer):
    assert ask(proxy) == (200, CONTENT)
    assert ask(proxy, Range="bytes=-3") == (206, CONTENT[-3:])
    assert ask(proxy, "HEAD") == (200, b"")
    assert ask(proxy, path="/none") == (404, b"")
    assert [entry.method for entry in proxy.log] == ["GET", "GET", "HEAD", "GET"]
    assert (proxy.requests, proxy.forwarded, proxy.bytes_out) == (4, 4, 259)
    assert server.requests == 4


def test_a_status_comes_in_place_of_the_answer(proxy: FaultyProxy, server: FileServer):
    proxy.rule = first(1, Status(503))
    status, body = ask(proxy)
    assert status == 503
    assert b"<Code>SlowDown</Code>" in body
    assert ask(proxy) == (200, CONTENT)
    assert [entry.fault for entry in proxy.log] == [Status(503), None]
    assert (proxy.forwarded, server.requests) == (1, 1)


def test_a_hang_outlasts_the_client(proxy: FaultyProxy, server: FileServer):
    proxy.rule = every(1, Hang(60))
    with pytest.raises(TimeoutError):
        ask(proxy, timeout=0.2)
    assert server.requests == 0


def test_a_short_hang_ends_without_an_answer(proxy: FaultyProxy):
    proxy.rule = every(1, Hang(0.1))
    with pytest.raises(http.client.RemoteDisconnected):
        ask(proxy)


def test_a_lost_answer_belongs_to_a_request_that_took_effect(proxy: FaultyProxy, server: FileServer):
    proxy.rule = every(1, Lose())
    with pytest.raises(http.client.RemoteDisconnected):
        ask(proxy)
    assert server.requests == 1


def test_a_drip_stalls_within_the_body(proxy: FaultyProxy):
    proxy.rule = every(1, Drip(0.5))
    began = time.monotonic()
    assert ask(proxy) == (200, CONTENT)
    assert time.monotonic() - began >= 0.5
    with pytest.raises(TimeoutError):
        ask(proxy, timeout=0.2)


@pytest.mark.parametrize("count", [0, 100])
def test_a_cut_body_is_shorter_than_promised(proxy: FaultyProxy, count: int):
    proxy.rule = every(1, Cut(count))
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(proxy)
    assert caught.value.partial == CONTENT[:count]


def test_a_truncated_body_keeps_its_promise(proxy: FaultyProxy):
    proxy.rule = every(1, Truncate(5))
    assert ask(proxy, Range="bytes=10-19") == (206, CONTENT[10:15])


def test_one_bit_is_flipped(proxy: FaultyProxy):
    proxy.rule = every(1, Flip(8 * 3 + 1))
    _, body = ask(proxy)
    assert [(at, old ^ new) for at, (old, new) in enumerate(zip(CONTENT, body, strict=True)) if old != new] == [(3, 2)]


def test_the_end_of_the_block_ends_what_hangs(server: FileServer):
    began = time.monotonic()
    with FaultyProxy(server.url, every(1, Hang(60))) as proxy, pytest.raises(TimeoutError):
        ask(proxy, timeout=0.1)
    assert time.monotonic() - began < 10
