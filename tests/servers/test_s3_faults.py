"""What s3fs makes of each fault, with its own repetitions switched off or left as they are.

These tests hold down what the package has to reckon with: which errors come, and how many requests stand behind them.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import pytest
import s3fs
from aiohttp import ClientPayloadError
from botocore.exceptions import ConnectionClosedError, FlexibleChecksumError, ReadTimeoutError

from tests.servers import Cut, FaultyProxy, Flip, Hang, Lose, S3Server, Status, Truncate, every, first, matching

BODY = b"x" * 1000


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3.endpoint) as proxy:
        yield proxy


def client(proxy: FaultyProxy, **retries: int) -> s3fs.S3FileSystem:
    config = {"read_timeout": 1, "connect_timeout": 1, **({"retries": retries} if retries else {})}
    return s3fs.S3FileSystem(endpoint_url=proxy.url, config_kwargs=config, skip_instance_cache=True)


@pytest.fixture
def once(proxy: FaultyProxy) -> s3fs.S3FileSystem:
    """A client that asks once."""
    fs = client(proxy, max_attempts=0)
    fs.retries = 1
    return fs


@pytest.fixture
def key(proxy: FaultyProxy, once: s3fs.S3FileSystem, s3_url: str) -> str:
    """An object of `BODY`; the requests that made it are not in the log."""
    once.pipe_file(f"{s3_url}/key", BODY)
    proxy.log.clear()
    return f"{s3_url}/key"


def test_put_get_list_and_exclusive_create_pass(proxy: FaultyProxy, once: s3fs.S3FileSystem, key: str):
    assert once.cat_file(key) == BODY
    assert once.cat_file(key, start=-3) == BODY[-3:]
    assert once.find(key.rpartition("/")[0]) == [key.removeprefix("s3://")]
    with pytest.raises(FileExistsError):
        once.pipe_file(key, b"y", mode="create")
    assert proxy.forwarded > 4
    assert proxy.bytes_in == len(BODY) + 1


def test_two_refusals_are_waited_out(proxy: FaultyProxy, key: str):
    proxy.rule = first(2, Status(503))
    assert client(proxy, max_attempts=0).cat_file(key, start=0, end=5) == BODY[:5]
    assert [entry.fault for entry in proxy.log] == [Status(503), Status(503), None]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Status(500), OSError),
        (Status(503), OSError),
        (Status(403), PermissionError),
        (Hang(60), ReadTimeoutError),
        (Cut(100), ClientPayloadError),
    ],
    ids=str,
)
def test_a_client_that_asks_once_gives_up_at_once(
    proxy: FaultyProxy, once: s3fs.S3FileSystem, key: str, fault, error: type[Exception]
):
    proxy.rule = every(1, fault)
    with pytest.raises(error):
        once.cat_file(key, start=0, end=500)
    assert proxy.requests == 1


def test_a_connection_that_closes_without_an_answer_is_asked_twice(
    proxy: FaultyProxy, once: s3fs.S3FileSystem, key: str
):
    proxy.rule = every(1, Lose())
    with pytest.raises(ConnectionClosedError):
        once.cat_file(key, start=0, end=500)
    assert proxy.requests == 2  # aiohttp repeats it, whatever s3fs is told


def test_an_exclusive_create_whose_answer_is_lost_meets_itself(
    proxy: FaultyProxy, once: s3fs.S3FileSystem, s3_url: str
):
    proxy.rule = first(1, Lose())
    with pytest.raises(FileExistsError):
        once.pipe_file(f"{s3_url}/claim", b"mine", mode="create")
    assert once.cat_file(f"{s3_url}/claim") == b"mine"


@pytest.mark.parametrize("fault", [Flip(5), Truncate(100)], ids=str)
def test_a_checksum_guards_the_whole_object_but_no_range(proxy: FaultyProxy, once: s3fs.S3FileSystem, key: str, fault):
    proxy.rule = every(1, fault, matching("GET"))
    with pytest.raises(FlexibleChecksumError):
        once.cat_file(key)
    assert once.cat_file(key, start=0, end=500) != BODY[:500]


def test_a_bit_flipped_on_its_way_in_is_stored(proxy: FaultyProxy, once: s3fs.S3FileSystem, s3_url: str):
    proxy.rule = first(1, Flip(0))
    once.pipe_file(f"{s3_url}/key", BODY)  # S3 itself would compare the checksum; moto does not
    assert once.cat_file(f"{s3_url}/key", start=0, end=2) == b"yx"


def test_a_client_told_to_ask_never_fails_with_a_type_error(proxy: FaultyProxy, once: s3fs.S3FileSystem, key: str):
    once.retries = 0
    with pytest.raises(TypeError):
        once.cat_file(key, start=0, end=5)
    assert proxy.requests == 0


def test_a_body_in_chunks_arrives(proxy: FaultyProxy, once: s3fs.S3FileSystem, s3_url: str):
    path = s3_url.removeprefix("s3:/") + "/chunked"
    with closing(http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=10)) as connection:
        connection.request("PUT", path, body=iter([b"one", b"two"]), encode_chunked=True)
        assert connection.getresponse().status == 200
    assert once.cat_file(f"{s3_url}/chunked") == b"onetwo"


def test_a_body_in_signed_chunks_arrives(proxy: FaultyProxy, once: s3fs.S3FileSystem, s3_url: str):
    body = b"3\r\none\r\n3\r\ntwo\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"
    headers = {
        "Content-Encoding": "aws-chunked",
        "X-Amz-Content-SHA256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "X-Amz-Decoded-Content-Length": "6",
        "X-Amz-Trailer": "x-amz-checksum-crc32",
    }
    with closing(http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=10)) as connection:
        connection.request("PUT", s3_url.removeprefix("s3:/") + "/chunked", body=body, headers=headers)
        assert connection.getresponse().status == 200
    assert once.cat_file(f"{s3_url}/chunked", start=0) == b"onetwo"
