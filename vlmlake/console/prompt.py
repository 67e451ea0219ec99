"""The interactive prompt: statements that end with a semicolon, and commands that begin with a dot."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from rich.console import Console
from rich.table import Table

from vlmlake.console.answers import Target, print_fetched, print_scans
from vlmlake.console.formats import BINARY, FORMATS, TABLE, require_format
from vlmlake.console.interruptible import interruptibly
from vlmlake.console.printable import printable
from vlmlake.console.prompt_words import Words
from vlmlake.console.shelf import print_query, print_shelf
from vlmlake.console.tables import print_table
from vlmlake.errors import VlmlakeError, without_credentials
from vlmlake.queries.session import Answer, Session
from vlmlake.queries.shelf import named_values, shelf, shelf_query
from vlmlake.queries.shelf_answers import ask_shelf
from vlmlake.queries.statements import is_ended, statements
from vlmlake.store_schema.retries import client_errors, described

SHOWN = (TABLE, *(name for name in FORMATS if name not in BINARY))

COMMANDS = {
    ".help": "this list",
    ".tables": "names of tables and relations",
    ".schema NAME": "columns of one, with their types",
    ".explain STATEMENT": "what it would fetch of arrays; nothing is fetched",
    ".stats on|off": "after each answer what was fetched for it",
    f".format {'|'.join(SHOWN)}": "how answers are shown",
    ".queries [NAME]": "questions on the shelf; all of one",
    ".run NAME k=v ...": "a question of the shelf",
    ".quit": "leave, as Ctrl-D does",
}


class _Left(Exception):  # noqa: N818 - no error
    """The person is done."""


@dataclass
class Prompt:
    """session: that answers. form: how answers are shown, one of SHOWN. stats: whether their cost is told."""

    session: Session
    console: Console
    form: str = TABLE
    stats: bool = False
    _commands: dict[str, Callable[[str], None]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._commands = {
            ".help": self._help,
            ".tables": self._tables,
            ".schema": self._schema,
            ".explain": self._explain,
            ".stats": self._stats,
            ".format": self._format,
            ".queries": self._queries,
            ".run": self._run,
            ".quit": self._quit,
        }

    def converse(self, history: History) -> None:
        """Ask and answer until `.quit` or Ctrl-D. An error is one line; Ctrl-C drops what is typed, or stops a
        statement.
        """
        self.console.print("Statements end with ;   .help lists commands, .queries the shelf   Ctrl-D leaves")
        asked: PromptSession[str] = PromptSession(
            history=history,
            completer=self.words(),
            complete_while_typing=False,
            multiline=Condition(lambda: not _is_whole(get_app().current_buffer.text)),
            prompt_continuation="    > ",
        )
        while True:
            try:
                self.take(asked.prompt("lake> "))
            except KeyboardInterrupt:
                continue
            except (EOFError, _Left):
                return
            except VlmlakeError as error:
                self._tell(str(error))
            except client_errors() as error:
                self._tell(described(error))

    def words(self) -> Words:
        """What Tab offers."""
        names = self.session.names()
        queries = tuple(query.name for query in shelf())
        follow = {
            ".schema": tuple(names),
            ".format": SHOWN,
            ".stats": ("on", "off"),
            ".queries": queries,
            ".run": queries,
        }
        return Words({command: follow.get(command, ()) for command in self._commands}, names)

    def take(self, text: str) -> None:
        """Answer what was typed: a command, or statements."""
        text = text.strip()
        if not text.startswith("."):
            for statement in statements(text):
                self._show(lambda statement=statement: self.session.ask(statement))  # type: ignore[misc]
            return
        name, _, rest = text.partition(" ")
        if name not in self._commands:
            raise VlmlakeError(f"no command {name}: .help lists them")
        self._commands[name](rest.strip())

    def _show(self, ask: Callable[[], Answer]) -> None:
        answer = interruptibly(self.session.connection, ask)
        Target(self.form).put(self.console, answer.table)
        if self.stats:
            print_fetched(self.console, answer)

    def _tell(self, text: str) -> None:
        self.console.print(printable(without_credentials(" ".join(text.split()))))

    def _help(self, _: str) -> None:
        table = Table(box=None, show_header=False)
        for name, what in COMMANDS.items():
            table.add_row(name, what)
        self.console.print(table)

    def _tables(self, _: str) -> None:
        for name in self.session.names():
            self.console.print(printable(name))

    def _schema(self, name: str) -> None:
        names = self.session.names()
        if name not in names:
            raise VlmlakeError(f"no table {name!r}: expected .schema and one of {', '.join(names)}")
        quoted = name.replace('"', '""')
        described = self.session.ask(f'DESCRIBE "{quoted}"').table
        print_table(self.console, described.select(["column_name", "column_type"]))

    def _explain(self, statement: str) -> None:
        scans = interruptibly(self.session.connection, lambda: self.session.explain(statement))
        print_scans(self.console, scans)

    def _stats(self, word: str) -> None:
        if word not in ("on", "off"):
            raise VlmlakeError(f".stats is {word!r}, expected on or off")
        self.stats = word == "on"

    def _format(self, form: str) -> None:
        require_format(form, SHOWN)
        self.form = form

    def _queries(self, name: str) -> None:
        if name:
            print_query(self.console, shelf_query(name))
        else:
            print_shelf(self.console)

    def _run(self, words: str) -> None:
        try:
            name, *given = shlex.split(words)
        except ValueError as error:
            raise VlmlakeError("expected .run NAME k=v ..., a value with spaces in quotes") from error
        query, parameters = shelf_query(name), named_values(given)
        self._show(lambda: ask_shelf(self.session, query, parameters))

    def _quit(self, _: str) -> None:
        raise _Left


def own_history() -> History:
    """What was typed before, in a file that nobody else reads; of this conversation only, where none can be."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(state) / "vlmlake" / "sql-history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
        path.chmod(0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)


def _is_whole(text: str) -> bool:
    """Whether Enter sends it: a command, nothing at all, or a statement with its semicolon."""
    return not text.strip() or text.lstrip().startswith(".") or is_ended(text)
