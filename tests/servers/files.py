"""A static file server, as a plain web host is: ranges, HEAD, no listings, read only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from tests.servers.loopback import Handler, Loopback

_RANGE = re.compile(r"bytes=(?!-$)(\d*)-(\d*)$")


class Entry(NamedTuple):
    """One request as the log keeps it; `range` is the header's value."""

    method: str
    path: str
    range: str | None


class FileServer(Loopback):
    """Serves `folder` at `url`; every answer waits `delay` seconds; without `ranges` a range is ignored.

    missing: status for a file that is not there; S3 says 403 to who may not list.
    """

    def __init__(self, folder: Path | str, delay: float = 0.0, ranges: bool = True, missing: int = 404) -> None:
        super().__init__(_Files)
        self.folder = Path(folder).resolve()
        self.delay = delay
        self.ranges = ranges
        self.missing = missing
        self.log: list[Entry] = []
        self.bytes_sent = 0

    @property
    def requests(self) -> int:
        return len(self.log)

    def find(self, target: str) -> Path | None:
        """The file that a request's target names, None where there is none inside the folder."""
        try:
            path = (self.folder / unquote(urlsplit(target).path).lstrip("/")).resolve()
        except ValueError:  # a NUL in the name
            return None
        return path if path.is_relative_to(self.folder) and path.is_file() else None


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and end of a Range header, the whole file for what is no single range, None beyond the file."""
    match = _RANGE.match(header or "")
    if not match:
        return 0, size
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
    return (start, end) if start < end else None


class _Files(Handler):
    def do_GET(self) -> None:
        files: FileServer = self._note()
        path = files.find(self.path)
        if path is None:
            return self.answer(files.missing, [], b"")
        content = path.read_bytes()
        wanted = self.headers["Range"] if files.ranges else None
        part = byte_range(wanted, len(content))
        if part is None:
            return self.answer(416, [("Content-Range", f"bytes */{len(content)}")], b"")
        headers = [("Content-Type", "application/octet-stream")]
        if files.ranges:
            headers.append(("Accept-Ranges", "bytes"))
        if wanted and _RANGE.match(wanted):
            headers.append(("Content-Range", f"bytes {part[0]}-{part[1] - 1}/{len(content)}"))
            return self._send(206, headers, content[slice(*part)])
        return self._send(200, headers, content)

    do_HEAD = do_GET

    def refuse(self) -> None:
        self.read_body()
        self._note()
        self.answer(405, [("Allow", "GET, HEAD")], b"")

    do_PUT = do_POST = do_DELETE = do_PATCH = refuse

    def _note(self) -> FileServer:
        files = self.server.owner
        with files.lock:
            files.log.append(Entry(self.command, self.path, self.headers["Range"]))
        files.closing.wait(files.delay)
        return files

    def _send(self, code: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.answer(code, headers, body)
        if self.command == "GET":
            with self.server.owner.lock:
                self.server.owner.bytes_sent += len(body)
