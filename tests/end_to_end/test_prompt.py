"""The prompt, driven through a pipe as a terminal would: statements, commands, completion, Ctrl-C, Ctrl-D, history."""

from __future__ import annotations

import io
import json
import signal
import stat
import sys
import threading

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

from vlmlake import cli
from vlmlake.console.prompt import COMMANDS, Prompt, own_history
from vlmlake.console.prompt_words import Words
from vlmlake.errors import VlmlakeError
from vlmlake.queries import Session, shelf
from vlmlake.queries.statements import is_ended, statements

ENTER, CTRL_C, CTRL_D, TAB = "\r", "\x03", "\x04", "\t"


@pytest.fixture(scope="module")
def session(lake_url):
    with Session.at(lake_url) as opened:
        yield opened


@pytest.fixture
def talk(session):
    """What a conversation prints, after its first line; each text is typed, with Enter behind it."""

    def talk(*texts: str, raw: str = "") -> list[str]:
        typed = "".join(text + ENTER for text in texts) + raw
        printed = io.StringIO()
        console = Console(file=printed, width=200, markup=False, emoji=False, highlight=False, soft_wrap=True)
        with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
            keys.send_text(typed + CTRL_D)
            Prompt(session, console).converse(InMemoryHistory())
        first, *rest = printed.getvalue().splitlines()
        assert "Ctrl-D leaves" in first
        return [line.strip() for line in rest]

    return talk


def test_a_statement_is_answered_at_its_semicolon(talk):
    assert talk("select 1 as a,", "2 as b", ";") == ["a b", "1 2"]
    assert talk("select 1 as a; select 2 as b;") == ["a", "1", "b", "2"]
    assert talk("select ';", "' as a;", "select 3 as c;")[-2:] == ["c", "3"]
    assert talk("", "  ", "select 1 as a; -- one") == ["a", "1"]
    assert talk("-- nothing;", "select 4 as d;") == ["d", "4"]


def test_an_error_is_one_line_and_the_prompt_goes_on(talk):
    found = talk("select nope from examples;", "selec 1;", "select 1 as a;")
    assert found[0].startswith("SQL: Binder Error")
    assert found[1].startswith("SQL: Parser Error")
    assert found[2:] == ["a", "1"]


def test_a_statement_reaches_the_lake_alone(talk, tmp_path):
    found = talk(
        f"copy (select 1) to '{tmp_path}/a.csv';", "set enable_external_access = true;", "insert into runs select 1;"
    )
    assert len(found) == 3
    assert all(line.startswith("SQL: ") for line in found)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_drops_the_line_and_ctrl_d_leaves(talk):
    assert talk(raw=f"select 1 as a,{ENTER}{CTRL_C}select 2 as b;{ENTER}") == ["b", "2"]
    assert talk(raw=f"select '{CTRL_C}{CTRL_D}select 3;{ENTER}") == []


def test_quit_leaves(talk):
    assert talk(".quit", "select 1 as a;") == []


def test_ctrl_c_stops_a_statement_and_the_prompt_goes_on(talk, session, monkeypatch):
    ask = Session.ask
    asked = []

    def interrupted(self, query, parameters=None):
        if not asked:
            asked.append(query)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        return ask(self, query, parameters)

    monkeypatch.setattr(Session, "ask", interrupted)
    endless = "select count(*) from range(10000000000) a, range(10000000000) b where a.range <> b.range;"
    assert talk(endless, "select 1 as a;") == ["stopped", "a", "1"]
    assert asked == [endless]


def test_help_names_every_command(talk):
    found = talk(".help")
    assert len(found) == len(COMMANDS)
    assert [line.split()[0] for line in found] == [name.split()[0] for name in COMMANDS]


def test_tables_and_their_columns(talk, session):
    assert talk(".tables") == list(session.names())
    assert {"examples", "metrics", "hidden_states", "attention"} <= set(session.names())
    found = [line.split() for line in talk(".schema runs")]
    assert found[1:3] == [["run", "VARCHAR"], ["model", "VARCHAR"]]
    assert ["vector", "FLOAT[64]"] in [line.split() for line in talk(".schema hidden_states")]
    assert talk(".schema nope")[0].startswith("no table 'nope': expected .schema and one of answers, attention")


def test_explain_fetches_nothing(talk, session):
    before = session.catalog.storage.bytes_read
    query = "select vector from readout_states where layer = 'block_2' and position = 'prompt_last'"
    found = [line.split() for line in talk(f".explain {query}", f".explain {query};")]
    assert found[1][:4] == found[3][:4] == ["readout_states", "480", "10", "200"]
    assert session.catalog.storage.bytes_read - before < 20_000
    assert talk(".explain select 1") == ["no array is read"]


def test_stats_are_told_while_they_are_on(talk):
    found = talk(".stats on", "select 1 as a;", ".stats off", "select 2 as b;", ".stats maybe")
    assert found[:4] == ["a", "1", "no array is read", "fetched: 0 B in 0 requests"]
    assert found[4:6] == ["b", "2"]
    assert found[6] == ".stats is 'maybe', expected on or off"


def test_answers_are_shown_in_other_formats(talk, capsys):
    found = talk(
        ".format csv", "select 1 as a, 'x' as b;", ".format json", "select 2 as c;", ".format parquet", ".format table"
    )
    assert found == ["format is 'parquet', expected one of table, csv, json"]
    csv, _, text = capsys.readouterr().out.partition("[")
    assert csv == 'a,b\n1,"x"\n'
    assert json.loads("[" + text) == [{"c": 2}]


def test_questions_of_the_shelf_are_listed_shown_and_asked(talk):
    assert [line.split()[0] for line in talk(".queries")[1:]] == [query.name for query in shelf()]
    assert talk(".queries leakage")[0] == "leakage: Images on both sides of a split"
    found = talk(
        ".run confident-errors split=random limit=2", ".run confident-errors limit=0", ".run nope", ".run drops 'a"
    )
    assert len(found) == 6
    assert found[0].split()[:2] == ["run", "example"]
    assert found[3].startswith("the query confident-errors: parameter limit is '0'")
    assert found[4].startswith("no query named nope on the shelf")
    assert found[5] == "expected .run NAME k=v ..., a value with spaces in quotes"
    assert talk(".run")[0].startswith("expected .run NAME k=v")
    assert talk(".runs")[0] == "no command .runs: .help lists them"


def offered(session, text):
    words = Prompt(session, Console(file=io.StringIO())).words()
    return [one.text for one in words.get_completions(Document(text), CompleteEvent())]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("select * from exam", ["example", "examples"]),
        ("select * from answers where first_", ["first_log_prob", "first_gap", "first_entropy"]),
        ("select image_sh", ["image_sha256"]),
        ("SELECT 1 FRO", ["from"]),
        (".ru", [".run"]),
        (".run conf", ["confident-errors"]),
        (".run leakage ", ["run="]),
        (".queries drop", ["drops"]),
        (".schema read", ["readout_states"]),
        (".format c", ["csv"]),
        (".stats o", ["on", "off"]),
        (".run nope x", []),
        (".explain select weig", ["weights"]),
    ],
)
def test_words_are_offered(session, text, words):
    assert offered(session, text) == words


def test_tab_completes(session, monkeypatch):
    printed = io.StringIO()
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        offer = Words.get_completions

        def offered(self, document, event):
            yield from offer(self, document, event)
            keys.send_text(f";{ENTER}{CTRL_D}")  # not before: what is typed while words are looked up drops them

        monkeypatch.setattr(Words, "get_completions", offered)
        keys.send_text(f"select count(*) as n from skip{TAB}")
        Prompt(session, Console(file=printed)).converse(InMemoryHistory())
    assert printed.getvalue().split()[-2:] == ["n", "0"]


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("select 1;", True),
        ("select 1; ", True),
        ("select 1", False),
        ("select ';", False),
        ("select ';';", True),
        ('select 1 as ";', False),
        ("select 1 -- ;", False),
        ("select 1; -- done", True),
        ("select 1 /* ; */", False),
        ("select /* 1;", False),
        ("select $$ ;", False),
        ("select $a$ ' $a$;", True),
        ("select 'it''s';", True),
        ("", False),
    ],
)
def test_where_a_statement_ends(text, ended):
    assert is_ended(text) is ended


def test_statements_are_told_apart():
    assert [one.strip(" ;\n") for one in statements("select ';'; select 2 -- two;\n;")] == [
        "select ';'",
        "select 2 -- two",
    ]
    assert statements(" -- nothing") == ()
    with pytest.raises(VlmlakeError, match="SQL: Parser Error"):
        statements("selec 1")


def test_history_is_the_persons_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    history = own_history()
    history.append_string("select 1;")
    path = tmp_path / "state" / "vlmlake" / "sql-history"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    again = own_history()
    assert isinstance(again, FileHistory)
    assert list(again.load_history_strings()) == ["select 1;"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_without_a_place_for_it_history_lasts_as_long_as_the_prompt(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert isinstance(own_history(), InMemoryHistory)


def test_sql_on_a_terminal_is_the_prompt(lake_url, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["vlmlake", "sql", lake_url, "--stats"])
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text(f"select count(*) as n from examples;{ENTER}{CTRL_D}")
        with pytest.raises(SystemExit) as left:
            cli.main()
    assert not left.value.code
    assert [line.split() for line in capsys.readouterr().out.splitlines()[1:3]] == [["n"], ["480"]]
    assert "select count(*) as n from examples;" in (tmp_path / "vlmlake" / "sql-history").read_text()
