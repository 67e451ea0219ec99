"""A threaded HTTP server on a free port of loopback, for as long as a `with` block lasts."""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class Loopback:
    """Answers with `handler`, which finds this object as `self.server.owner`."""

    def __init__(self, handler: type[Handler]) -> None:
        self.lock = threading.Lock()  # guards the counts of whoever inherits
        self.closing = threading.Event()  # what sleeps in an answer sleeps on this
        self._server = _Server(handler, self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Handler(BaseHTTPRequestHandler):
    """Reads the whole body, answers once and closes: no request can meet a connection that an earlier one left over."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def read_body(self) -> bytes:
        """The body as it came over the wire, chunk frames included."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return b"".join(self._frames())
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _frames(self):
        size = -1
        while size != 0:
            head = self.rfile.readline()
            size = int(head.split(b";")[0], 16)
            yield head
            if size:
                yield self.rfile.read(size + len(b"\r\n"))
        trailer = b""
        while trailer != b"\r\n":
            trailer = self.rfile.readline()
            yield trailer

    def start(self, code: int, headers: list[tuple[str, str]], length: int) -> None:
        """Send everything that comes before the body; `headers` says nothing of length or connection."""
        self.send_response_only(code)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()

    def answer(self, code: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.start(code, headers, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    block_on_close = False

    def __init__(self, handler: type[Handler], owner: Loopback) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.owner = owner

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # clients may hang up
            super().handle_error(request, client_address)
