"""Where the answer to a statement goes: a terminal, a pipe or a file at any URL; and what it took to fetch."""

from __future__ import annotations

import posixpath
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from vlmlake.console.formats import BINARY, FORMATS, TABLE, encoded, require_format
from vlmlake.console.printable import printable
from vlmlake.console.tables import print_table
from vlmlake.errors import VlmlakeError, without_credentials
from vlmlake.queries.meter import ScanFacts
from vlmlake.queries.session import Answer
from vlmlake.store_schema.sizes import size_in_words
from vlmlake.store_schema.storage import Storage


@dataclass(frozen=True)
class Target:
    """form: `table` or one of FORMATS. file: its folder and name; none for standard output."""

    form: str = TABLE
    file: tuple[Storage, str] | None = None

    @classmethod
    def of(cls, form: str | None, output: str | None, options: Mapping[str, Any] | None = None) -> Target:
        """form: by the ending of the output where none is given. output: a file's URL. options: for its file system.

        Raises VlmlakeError where no format is told, it is unknown or not one for that place, and for no file's URL.
        """
        if form is not None:
            require_format(form)
        if output is None:
            form = form or TABLE
            if form in BINARY and sys.stdout.isatty():
                raise VlmlakeError(f"{form} is not for a terminal: give --output FILE.{form}, or pipe it on")
            return cls(form)
        if form is None:
            form = posixpath.splitext(output)[1].removeprefix(".").lower()
            if form not in FORMATS:
                endings = ", ".join(f".{name}" for name in FORMATS)
                raise VlmlakeError(
                    f"cannot tell the format of {without_credentials(output)}: expected {endings}, or --format"
                )
        if form == TABLE:
            raise VlmlakeError(f"a table is for reading, not for a file: expected --format {', '.join(FORMATS)}")
        folder, _, name = output.rpartition("/")
        if not name or folder.endswith(":/"):
            raise VlmlakeError(f"{without_credentials(output)} names no file: expected FOLDER/NAME.{form}")
        if not folder:
            folder = "/" if output.startswith("/") else "."
        return cls(form, (Storage.at(folder, options), name))

    def require_outside(self, lake: Storage) -> None:
        """Raises VlmlakeError for a file within a lake: a query changes nothing there."""
        if self.file is None:
            return
        storage, name = self.file
        inside = posixpath.relpath(storage.full(name), lake.root)
        if type(storage.fs) is type(lake.fs) and not inside.startswith(".."):
            raise VlmlakeError(f"{storage.url}/{name} lies within the lake: expected a place outside of it")

    def put(self, console: Console, table: pa.Table) -> None:
        """Print the table, or write it whole."""
        if self.form == TABLE:
            print_table(console, table)
            return
        content = encoded(table, self.form)
        if self.file is None:
            put_bytes(content)
            return
        storage, name = self.file
        storage.write(name, content)
        rows = f"{table.num_rows:,} row{'' if table.num_rows == 1 else 's'}"
        console.print(f"{rows}, {size_in_words(len(content))}, written to {printable(f'{storage.url}/{name}')}")


def put_bytes(content: bytes) -> None:
    """Standard output as it is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def print_scans(console: Console, scans: Sequence[ScanFacts]) -> None:
    """A row for every relation over arrays that is read, in the order in which they run."""
    if not scans:
        console.print("no array is read")
        return
    table = Table("relation", box=None)
    for column in ("rows", "chunks", "of", "bytes", "requests"):
        table.add_column(column, justify="right")
    for scan in scans:
        counts = f"{scan.rows:,}", f"{scan.chunks:,}", f"{scan.chunks_there:,}"
        table.add_row(scan.relation, *counts, size_in_words(scan.bytes), f"{scan.requests:,}")
    console.print(table)


def print_fetched(console: Console, answer: Answer) -> None:
    """The scans of an answer, and what was fetched for it in all."""
    print_scans(console, answer.scans)
    requests = f"{answer.requests:,} request{'' if answer.requests == 1 else 's'}"
    console.print(f"fetched: {size_in_words(answer.bytes)} in {requests}")
