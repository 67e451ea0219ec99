"""The verbs that ask: answers in every format, to files of any storage, with what they would fetch and did."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading

import duckdb
import pandas as pd
import polars as pl
import pytest

from vlmlake import open_lake
from vlmlake.cli_queries import limit_of
from vlmlake.console.answers import Target
from vlmlake.queries import Session, run_query, shelf, sql
from vlmlake.store_schema.sizes import size_in_words
from vlmlake.store_schema.storage import Storage

SPLITS = (
    "select split, count(*) as n, avg(first_entropy) as h from examples join answers using (run, example) group by 1"
)
MIXED = """
select i as n, if(i = 1, null, 'a, "b"' || chr(10) || 'ü') as text, [i, 2 * i] as list, {'x': i / 4} as struct,
       if(i = 2, 'nan'::double, i / 8) as number, sum(i) over () as big, date '2026-11-23' + i::integer as day,
       map {'k': i} as pairs, 'ab'::blob as bytes
from range(3) t(i)
"""
VECTORS = (
    "select example, vector from readout_states where layer = 'block_2' and position = 'prompt_last' order by example"
)


@pytest.fixture
def table(lake_url):
    return sql(lake_url, MIXED)


def test_csv_is_read_back(run_cli, lake_url):
    code, out, err = run_cli("sql", lake_url, MIXED, "--format", "csv")
    assert (code, err) == (0, "")
    found = pd.read_csv(io.StringIO(out))
    assert found["text"].fillna("none").tolist() == ['a, "b"\nü', "none", 'a, "b"\nü']
    assert [json.loads(cell) for cell in found["list"]] == [[0, 0], [1, 2], [2, 4]]
    assert [json.loads(cell) for cell in found["struct"]] == [{"x": 0.0}, {"x": 0.25}, {"x": 0.5}]
    assert found["number"].tolist()[:2] == [0.0, 0.125]
    assert found["number"].isna().tolist() == [False, False, True]
    assert found["big"].tolist() == [3, 3, 3]
    assert found["day"].tolist() == ["2026-11-23", "2026-11-24", "2026-11-25"]
    assert duckdb.read_csv(io.StringIO(out)).fetchall()[0][0] == 0


def test_json_is_read_back(run_cli, lake_url, tmp_path):
    _, out, _ = run_cli("sql", lake_url, MIXED, "--format", "json")
    rows = json.loads(out)
    assert [row["list"] for row in rows] == [[0, 0], [1, 2], [2, 4]]
    assert rows[1]["text"] is None
    assert rows[2]["number"] is None
    assert rows[0] == {
        "n": 0,
        "text": 'a, "b"\nü',
        "list": [0, 0],
        "struct": {"x": 0.0},
        "number": 0.0,
        "big": 3,
        "day": "2026-11-23",
        "pairs": [["k", 0]],
        "bytes": "6162",
    }
    assert pd.read_json(io.StringIO(out))["n"].tolist() == [0, 1, 2]
    (tmp_path / "a.json").write_text(out)
    assert duckdb.read_json(str(tmp_path / "a.json")).fetchall()[2][0] == 2
    assert json.loads(run_cli("sql", lake_url, "select 1 as a where false", "--format", "json")[1]) == []


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_binary_formats_go_down_a_pipe(lake_url, table, form):
    arguments = ["-m", "vlmlake.cli", "sql", lake_url, MIXED, "--format", form]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    found = pl.read_parquet(done.stdout) if form == "parquet" else pl.read_ipc(done.stdout)
    assert found.select("n", "list", "struct").equals(pl.from_arrow(table).select("n", "list", "struct"))


@pytest.mark.parametrize("form", ["csv", "json", "parquet", "arrow"])
def test_a_file_has_the_format_of_its_ending(run_cli, lake_url, tmp_path, form):
    out = tmp_path / "new" / f"answer.{form}"
    code, told, _ = run_cli("sql", lake_url, SPLITS + " order by 1", "--output", str(out))
    assert code == 0
    assert told == f"3 rows, {size_in_words(out.stat().st_size)}, written to {out}\n"
    read = {"csv": pl.read_csv, "json": pl.read_json, "parquet": pl.read_parquet, "arrow": pl.read_ipc}
    found = read[form](out.read_bytes())
    assert found.equals(pl.from_arrow(sql(lake_url, SPLITS + " order by 1")))
    assert os.listdir(out.parent) == [out.name]


def test_a_format_that_is_given_beats_the_ending(run_cli, lake_url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_cli("sql", lake_url, SPLITS, "--output", "answer.txt", "--format", "csv")[0] == 0
    assert pl.read_csv("answer.txt").height == 3


def test_vectors_keep_their_width(run_cli, lake_url, tmp_path):
    out = tmp_path / "vectors.parquet"
    assert run_cli("sql", lake_url, VECTORS, "--output", str(out))[0] == 0
    found = pl.read_parquet(out)
    assert found.schema["vector"] == pl.Array(pl.Float32, 64)
    lake = open_lake(lake_url)
    states = lake[lake.runs[0]]["readout_states"].sel(layer="block_2", position="prompt_last")
    expected = states.sel(example=found["example"].to_list()).values
    assert (found["vector"].to_numpy() == expected).all()
    _, shown, _ = run_cli("sql", lake_url, VECTORS + " limit 2")
    assert shown.count(", ... 64]") == 2


@pytest.mark.parametrize("verb", ["sql", "query"])
def test_answers_go_to_s3(run_cli, lake_url, s3, s3_url, verb):
    words = ("sql", lake_url, SPLITS) if verb == "sql" else ("query", "accuracy", lake_url)
    place = f"{s3_url}/answers/one.parquet"
    code, told, err = run_cli(*words, "--output", place, "--output-option", f"endpoint_url={s3.endpoint}")
    assert (err, code) == ("", 0)
    assert told.endswith(f" written to {place}\n")
    content = Storage.at(f"{s3_url}/answers", s3.options).read("one.parquet")
    expected = sql(lake_url, SPLITS) if verb == "sql" else run_query(lake_url, "accuracy")
    assert pl.read_parquet(content).sort("split").equals(pl.from_arrow(expected).sort("split"))


def test_what_fails_half_way_leaves_the_old_file(refused, lake_url, tmp_path, monkeypatch):
    out = tmp_path / "answer.csv"
    out.write_text("old")
    assert "SQL: " in refused("sql", lake_url, "select error('no')", "--output", str(out))
    assert os.listdir(tmp_path) == ["answer.csv"]
    assert out.read_text() == "old"


def test_explain_says_what_would_be_read_and_stats_what_was(run_cli, lake_url):
    query = "select avg(vector[1]) as mean from readout_states where layer = 'block_2' and position = 'prompt_last'"
    code, explained, _ = run_cli("sql", lake_url, query, "--explain")
    assert code == 0
    header, row = (line.split() for line in explained.splitlines())
    assert header == ["relation", "rows", "chunks", "of", "bytes", "requests"]
    assert row[:4] == ["readout_states", "480", "10", "200"]
    code, out, err = run_cli("sql", lake_url, query, "--stats")
    assert out.splitlines()[0].split() == ["mean"]
    assert err.splitlines()[1].split()[:4] == row[:4]
    assert err.splitlines()[-1].startswith("fetched: ")
    assert "mean" not in err
    assert run_cli("sql", lake_url, "select 1", "--explain")[1] == "no array is read\n"
    _, explained, _ = run_cli("query", "neighbours", lake_url, "--explain", "--param", "layer=block_1")
    assert explained.splitlines()[1].split()[0] == "readout_states"


def test_a_limit_is_kept(run_cli, refused, lake_url):
    query = "select sum(len(weights)) as n from attention"
    line = refused("sql", lake_url, query, "--limit", "1kB")
    assert "this would fetch " in line
    assert "the limit is 1.0 kB" in line
    assert int(run_cli("sql", lake_url, query, "--limit", "none")[1].split()[1]) > 1000
    assert "this would fetch " in refused("query", "neighbours", lake_url, "--limit", "1kB")


@pytest.mark.parametrize(
    ("text", "count"),
    [("none", None), ("0", 0), ("500MB", 500_000_000), ("2GiB", 2 * 2**30), ("1.5 kib", 1536), ("7b", 7)],
)
def test_limits_are_read(text, count):
    assert limit_of(text) == count


def test_runs_are_chosen(run_cli, lake_url):
    (run,) = open_lake(lake_url).runs
    for name in (run, "tiny-llava"):
        _, out, _ = run_cli("sql", lake_url, "select count(*) as n from runs", "--run", name, "--format", "csv")
        assert out.split() == ["n", "1"]


def test_statements_come_from_standard_input(run_cli, refused, lake_url, monkeypatch):
    def given(text):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))

    given("create temp table t as select 7 as a; -- kept;\nselect a + len(';') as b from t;\n")
    assert run_cli("sql", lake_url)[1].split()[-2:] == ["b", "8"]
    given("select 1 as a")
    assert run_cli("sql", lake_url, "--format", "csv")[1].split() == ["a", "1"]
    given("select 1 as a; select 2 as a")
    assert "2 statements have 2 answers: expected one for csv" in refused("sql", lake_url, "--format", "csv")
    given(" \n")
    assert "standard input holds no statement" in refused("sql", lake_url)
    given("select 1 as a; selec 2")
    assert "SQL: Parser Error" in refused("sql", lake_url)


def test_the_shelf_is_listed(run_cli):
    code, out, _ = run_cli("queries")
    assert code == 0
    lines = dict(line.strip().split(maxsplit=1) for line in out.splitlines()[1:])
    assert lines == {query.name: query.title for query in shelf()}
    for query in shelf():
        _, out, _ = run_cli("queries", query.name)
        assert query.sql in out
        assert query.sentence in out
        assert f"example: {query.example}" in out
        assert all(one.name in out and one.meaning in out for one in query.parameters)


def test_a_question_is_answered_as_python_answers_it(run_cli, lake_url):
    words = ("query", "confident-errors", lake_url, "--param", "split=random", "--param", "limit=4", "--format", "json")
    expected = run_query(lake_url, "confident-errors", {"split": "random", "limit": 4}).to_pylist()
    assert json.loads(run_cli(*words)[1]) == expected
    assert len(expected) == 4


def test_a_question_without_rows_says_so(run_cli, lake_url):
    code, _, err = run_cli("query", "attended-tokens", lake_url, "--param", "head=9")
    assert (code, err) == (0, "vlmlake: no rows: the lake has nothing that these parameters fit\n")


def test_to_explain_changes_nothing(run_cli, lake_url, tmp_path):
    (tmp_path / "kept.csv").write_text("kept")
    copied = f"copy (select example, vector from readout_states) to '{tmp_path}/kept.csv'"
    code, _, err = run_cli("sql", lake_url, "--allow-files", "--explain", copied)
    assert (code, "got COPY" in err) == (2, True)
    assert (tmp_path / "kept.csv").read_text() == "kept"


def test_long_vectors_are_shortened_and_short_ones_whole(run_cli, lake_url):
    query = "select [0.1, 0.25]::float[] as a, [0.123, -0.031, 1e-5, 4, 5]::float[5] as b, [1, 2, 3, 4, 5, 6] as c"
    _, out, _ = run_cli("sql", lake_url, query)
    assert out.splitlines()[1].strip() == "[0.1000, 0.2500] [0.12, -0.03, ... 5] [1, 2, ... 6]"


BAD = {
    "format unknown": (
        ("sql", "{lake}", "select 1", "--format", "xlsx"),
        "format is 'xlsx', expected one of table, csv",
    ),
    "ending unknown": (
        ("sql", "{lake}", "select 1", "--output", "{tmp}/a.xlsx"),
        "cannot tell the format of {tmp}/a.xlsx",
    ),
    "no ending": (("sql", "{lake}", "select 1", "--output", "{tmp}/a"), "expected .csv, .json, .parquet, .arrow"),
    "table to a file": (
        ("sql", "{lake}", "select 1", "--output", "{tmp}/a.csv", "--format", "table"),
        "a table is for reading, not for a file",
    ),
    "output without a name": (("sql", "{lake}", "select 1", "--output", "s3://a.csv"), "s3://a.csv names no file"),
    "output that is a folder": (
        ("sql", "{lake}", "select 1", "--output", "{tmp}/", "--format", "csv"),
        "{tmp}/ names no file",
    ),
    "output within the lake": (
        ("sql", "{lake}", "select 1", "--output", "{lake}/runs/a.csv"),
        "lies within the lake",
    ),
    "output over the web": (
        ("sql", "{lake}", "select 1", "--output", "http://127.0.0.1:9/a.csv"),
        "is a web address",
    ),
    "output of no protocol": (("sql", "{lake}", "select 1", "--output", "nosuch://a/b.csv"), "cannot open nosuch://a"),
    "columns of one name": (
        ("sql", "{lake}", "select * from (select 1 as a) x, (select 2 as a) y", "--format", "json"),
        "two columns are named a",
    ),
    "explained and written": (
        ("sql", "{lake}", "select 1", "--explain", "--output", "{tmp}/a.csv"),
        "--explain has no answer to write",
    ),
    "explained and no SELECT": (
        ("sql", "{lake}", "create table a as select vector from readout_states", "--explain"),
        "expected a SELECT to explain, got CREATE",
    ),
    "limit of words": (("sql", "{lake}", "select 1", "--limit", "much"), "limit is 'much', expected bytes as in 500MB"),
    "limit below nothing": (("sql", "{lake}", "select 1", "--limit=-1"), "limit is '-1', expected bytes"),
    "run unknown": (("sql", "{lake}", "select 1", "--run", "nope"), "no single run named nope"),
    "question unknown": (
        ("query", "accuracies", "{lake}"),
        "no query named accuracies on the shelf: did you mean accuracy",
    ),
    "question unknown to list": (("queries", "nope"), "no query named nope on the shelf"),
    "parameter without a value": (
        ("query", "accuracy", "{lake}", "--param", "run"),
        "parameter 'run' is not of the form NAME=VALUE",
    ),
    "parameter unknown": (
        ("query", "accuracy", "{lake}", "--param", "runs=a"),
        "the query accuracy has no parameter runs: expected one of run, rule, condition",
    ),
    "parameter of another type": (
        ("query", "neighbours", "{lake}", "--param", "limit=few"),
        "the query neighbours: parameter limit is 'few', expected a whole number from 1",
    ),
    "question of a lake that is not there": (("query", "accuracy", "{tmp}/none"), "no lake at {tmp}/none"),
}


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_done_is_refused(refused, lake_url, tmp_path, words, message):
    names = {"{lake}": lake_url, "{tmp}": str(tmp_path)}

    def filled(text):
        for name, value in names.items():
            text = text.replace(name, value)
        return text

    assert filled(message) in refused(*map(filled, words))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_a_terminal_gets_no_binary(refused, lake_url, monkeypatch, form):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    line = refused("sql", lake_url, "select 1", "--format", form)
    assert f"{form} is not for a terminal: give --output FILE.{form}" in line


def test_a_target_beside_the_lake_is_not_within_it(tmp_path):
    target = Target.of(None, str(tmp_path / "lake2" / "a.csv"))
    target.require_outside(Storage.at(str(tmp_path / "lake")))
    assert target.form == "csv"


def test_ctrl_c_stops_a_statement(lake_url, monkeypatch, run_cli):
    ask = Session.ask

    def interrupted(self, *given):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        return ask(self, *given)

    monkeypatch.setattr(Session, "ask", interrupted)
    endless = "select count(*) from range(10000000000) a, range(10000000000) b where a.range <> b.range"
    assert run_cli("sql", lake_url, endless) == (130, "", "vlmlake: stopped\n")


def test_a_refusal_is_one_line_to_the_end_of_the_process(lake_url):
    arguments = ["-m", "vlmlake.cli", "query", "neighbours", lake_url, "--limit", "1kB"]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("vlmlake: this would fetch ")
    assert done.stderr.count("\n") == 1
