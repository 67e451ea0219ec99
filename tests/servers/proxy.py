"""A proxy that stands in front of another server and makes it fail."""

from __future__ import annotations

import http.client
import socket
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.servers.faults import Cut, Drip, Fault, Flip, Hang, Lose, Request, Rule, Status, Truncate
from tests.servers.loopback import Handler, Loopback

DRIP_BYTES = 4  # of the body, before it stalls
HOP_BY_HOP = {"connection", "content-length", "keep-alive", "transfer-encoding"}


class Entry(NamedTuple):
    """One request as the log keeps it, with what befell it."""

    method: str
    path: str
    range: str | None
    fault: Fault | None


class FaultyProxy(Loopback):
    """Forwards what reaches `url` to `target`; `rule` says which requests fail and may be replaced at any time.

    `forwarded` counts the requests that reached the target, `bytes_in` the bodies that it was given and `bytes_out` the
    bodies that it gave back.
    """

    def __init__(self, target: str, rule: Rule | None = None) -> None:
        super().__init__(_Proxy)
        self.target = target
        self.rule = rule
        self.log: list[Entry] = []
        self.forwarded = self.bytes_in = self.bytes_out = 0

    @property
    def requests(self) -> int:
        return len(self.log)

    def judge(self, request: Request) -> Fault | None:
        """Note the request and say what shall befall it."""
        fault = self.rule(request) if self.rule else None
        with self.lock:
            self.log.append(Entry(request.method, request.path, request.range, fault))
        return fault

    def forward(self, request: Request) -> Answer:
        """What the target answers; the body is complete, whatever way it came."""
        connection = http.client.HTTPConnection(urlsplit(self.target).netloc, timeout=60)
        try:
            connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.putheader("Connection", "close")
            connection.endheaders(request.body)
            response = connection.getresponse()
            body = response.read()
            headers = [item for item in response.getheaders() if item[0].lower() not in HOP_BY_HOP]
            length = int(response.getheader("Content-Length", 0)) if request.method == "HEAD" else len(body)
        finally:
            connection.close()
        with self.lock:
            self.forwarded += 1
            self.bytes_in += len(request.body)
            self.bytes_out += len(body)
        return Answer(response.status, headers, length, body)


class Answer(NamedTuple):
    """`length` is what the header promises; the answer to HEAD promises a body and has none."""

    code: int
    headers: list[tuple[str, str]]
    length: int
    body: bytes


class _Proxy(Handler):
    def handle_request(self) -> None:
        proxy: FaultyProxy = self.server.owner
        request = Request(self.command, self.path, self.headers, self.read_body())
        fault = proxy.judge(request)
        self.close_connection = True
        match fault:
            case Status(code):
                self.answer(code, [("Content-Type", "application/xml")], _error(code))
            case Hang(seconds):
                self._hang_up_after(seconds)
            case Lose():
                proxy.forward(request)
                self._hang_up_after(0)
            case Flip(bit) if request.body:
                self._send(proxy.forward(replace(request, body=_flipped(request.body, bit))))
            case Drip(seconds):
                self._send(proxy.forward(request), DRIP_BYTES, seconds)
            case _:
                self._send(_spoilt(proxy.forward(request), fault))

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request

    def _send(self, answer: Answer, before_stall: int = 0, stall: float = 0.0) -> None:
        self.start(answer.code, answer.headers, answer.length)
        self.wfile.write(answer.body[:before_stall])
        self.server.owner.closing.wait(stall)
        self.wfile.write(answer.body[before_stall:])

    def _hang_up_after(self, seconds: float) -> None:
        self.server.owner.closing.wait(seconds)
        self.connection.shutdown(socket.SHUT_RDWR)


def _spoilt(answer: Answer, fault: Fault | None) -> Answer:
    match fault:
        case Cut(count):
            return answer._replace(body=answer.body[:count])
        case Truncate(count):
            return answer._replace(body=answer.body[:count], length=min(count, answer.length))
        case Flip(bit):
            return answer._replace(body=_flipped(answer.body, bit))
        case _:
            return answer


def _flipped(body: bytes, bit: int) -> bytes:
    changed = bytearray(body)
    if changed:
        changed[bit // 8 % len(changed)] ^= 1 << bit % 8
    return bytes(changed)


def _error(code: int) -> bytes:
    name = {403: "AccessDenied", 404: "NoSuchKey", 500: "InternalError", 503: "SlowDown"}.get(code, f"Error{code}")
    message = "Please reduce your request rate." if code == 503 else f"The proxy was told to answer {code}."
    return f'<?xml version="1.0"?><Error><Code>{name}</Code><Message>{message}</Message></Error>'.encode()
