"""The file server as a plain HTTP client sees it."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
import pytest

from tests.servers import FileServer

CONTENT = b"0123456789"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(b"secret")
    folder = tmp_path / "served"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a b").write_bytes(CONTENT)
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[FileServer]:
    with FileServer(folder) as server:
        yield server


def ask(server: FileServer, method: str, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    body = b"x" * 100_000 if method in ("PUT", "POST") else None
    with closing(http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)) as connection:
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        return response, response.read()


def test_a_file_comes_whole(server: FileServer):
    response, body = ask(server, "GET", "/inner/a%20b?version=1")
    assert (response.status, body) == (200, CONTENT)
    assert response.headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize(
    ("wanted", "part", "told"),
    [
        ("bytes=2-4", b"234", "bytes 2-4/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=7-100", b"789", "bytes 7-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=-100", CONTENT, "bytes 0-9/10"),
    ],
)
def test_a_range_comes_alone(server: FileServer, wanted: str, part: bytes, told: str):
    response, body = ask(server, "GET", "/inner/a%20b", Range=wanted)
    assert (response.status, body, response.headers["Content-Range"]) == (206, part, told)


@pytest.mark.parametrize("wanted", ["bytes=10-", "bytes=-0", "bytes=5-4"])
def test_a_range_of_nothing_is_not_satisfiable(server: FileServer, wanted: str):
    response, _ = ask(server, "GET", "/inner/a%20b", Range=wanted)
    assert (response.status, response.headers["Content-Range"]) == (416, "bytes */10")


@pytest.mark.parametrize("wanted", ["bytes=0-1,3-4", "bytes=-", "pages=1-2"])
def test_what_is_no_single_range_brings_the_whole(server: FileServer, wanted: str):
    response, body = ask(server, "GET", "/inner/a%20b", Range=wanted)
    assert (response.status, body) == (200, CONTENT)


def test_a_server_without_ranges_sends_the_whole(folder: Path):
    with FileServer(folder, ranges=False) as server:
        response, body = ask(server, "GET", "/inner/a%20b", Range="bytes=2-4")
    assert (response.status, body, response.headers["Accept-Ranges"]) == (200, CONTENT, None)


def test_head_tells_the_length_alone(server: FileServer):
    response, body = ask(server, "HEAD", "/inner/a%20b")
    assert (response.status, response.headers["Content-Length"], body) == (200, "10", b"")
    assert server.bytes_sent == 0


@pytest.mark.parametrize("path", ["/", "/inner", "/inner/", "/none", "/../secret", "/%2e%2e/secret", "/link", "/%00"])
def test_folders_and_what_lies_outside_are_not_found(server: FileServer, folder: Path, path: str):
    (folder / "link").symlink_to(folder.parent / "secret")
    response, body = ask(server, "GET", path)
    assert (response.status, body) == (404, b"")


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH"])
def test_writes_are_refused(server: FileServer, folder: Path, method: str):
    response, _ = ask(server, method, "/inner/a%20b")
    assert response.status == 405
    assert (folder / "inner" / "a b").read_bytes() == CONTENT


def test_requests_and_bytes_are_counted(server: FileServer):
    ask(server, "GET", "/inner/a%20b", Range="bytes=2-4")
    ask(server, "GET", "/none")
    assert server.log == [("GET", "/inner/a%20b", "bytes=2-4"), ("GET", "/none", None)]
    assert (server.requests, server.bytes_sent) == (2, 3)


def test_delays_pass_side_by_side(folder: Path):
    with FileServer(folder, delay=0.3) as server, ThreadPoolExecutor(8) as threads:
        began = time.monotonic()
        list(threads.map(lambda _: ask(server, "GET", "/inner/a%20b"), range(8)))
        assert 0.3 <= time.monotonic() - began < 8 * 0.3


def test_fsspec_reads_it(server: FileServer):
    fs = fsspec.filesystem("http")
    assert fs.cat_file(f"{server.url}/inner/a b", start=-3) == b"789"
    assert fs.info(f"{server.url}/inner/a b")["size"] == 10
