"""What a statement can reach: the lake's tables, and files only where that is asked for."""

from __future__ import annotations

import os

import duckdb
import pytest

from tests.store_schema.toy_runs import toy_run
from vlmlake.errors import VlmlakeError
from vlmlake.queries import connect, examples_where, sql


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    return toy_run(str(tmp_path_factory.mktemp("lake"))).storage.url


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder to stand in, with a table in it in three formats."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLMLAKE_TEST_SECRET", "do-not-tell")
    (tmp_path / "table.csv").write_text("a\n1\n")
    (tmp_path / "rows.json").write_text('{"a": 1}\n')
    with duckdb.connect() as plain:
        plain.execute("COPY (SELECT 1 AS a) TO 'table.parquet'")
        plain.execute("ATTACH 'other.db' AS other")
        plain.execute("CREATE TABLE other.secrets AS SELECT 1 AS a")
    return tmp_path


REACHING = {
    "read_csv": "select * from read_csv('table.csv')",
    "a file as a table": "select * from 'table.csv'",
    "read_text": "select * from read_text('table.csv')",
    "read_blob": "select * from read_blob('table.csv')",
    "glob": "select * from glob('*')",
    "read_parquet": "select * from read_parquet('table.parquet')",
    "parquet metadata": "select * from parquet_metadata('table.parquet')",
    "read_json": "select * from read_json('rows.json')",
    "sniff_csv": "select * from sniff_csv('table.csv')",
    "attach": "attach 'other.db' as other (read_only)",
    "copy from": "copy examples from 'table.csv'",
}
WRITING = {
    "copy to csv": "copy (select 1) to 'new.csv'",
    "copy to parquet": "copy (select 1) to 'new.parquet' (format parquet)",
    "attach new": "attach 'new.db'",
    "export": "export database 'new'",
}
NEVER = {
    "http": "select * from 'http://127.0.0.1:9/table.csv'",
    "http parquet": "select * from read_parquet('https://127.0.0.1:9/table.parquet')",
    "s3": "select * from read_csv('s3://bucket/table.csv')",
    "install": "install httpfs",
    "load": "load httpfs",
    "load a file": "load './table.csv'",
    "getenv": "select getenv('VLMLAKE_TEST_SECRET')",
    "import": "import database '.'",
    "unlock": "set enable_external_access = true",
    "unlock globally": "set global enable_external_access = true",
    "unlock by pragma": "pragma enable_external_access = true",
    "unlock by reset": "reset enable_external_access",
    "unlock the lock": "set lock_configuration = false",
    "allow a folder": "set allowed_directories = ['/']",
    "spill elsewhere": "set temp_directory = '.'",
    "python variables": "set python_enable_replacements = true",
    "write a view": "insert into examples select * from examples",
    "change a view": "update examples set gold = 'no'",
    "empty a view": "delete from examples",
    "keep a secret": "create persistent secret mine (type s3, key_id 'a', secret 'b')",
    "profile to a file": "pragma profiling_output = 'new.json'",
}


@pytest.mark.parametrize("name", [*REACHING, *WRITING, *NEVER])
def test_by_default_a_statement_reaches_the_lake_alone(lake, files, name):
    before = sorted(os.listdir(files))
    statement = {**REACHING, **WRITING, **NEVER}[name]
    with pytest.raises(VlmlakeError, match=r"^SQL: ") as refused:
        sql(lake, statement)
    assert "do-not-tell" not in str(refused.value)
    assert sorted(os.listdir(files)) == before


def test_a_connection_that_was_tried_stays_locked(lake, files):
    with connect(lake) as connection:
        for statement in NEVER.values():
            with pytest.raises(duckdb.Error):
                connection.execute(statement)
        for statement in (*REACHING.values(), *WRITING.values()):
            with pytest.raises(duckdb.Error):
                connection.execute(statement)
        assert connection.execute("select count(*) from examples").fetchone() == (15,)


@pytest.mark.parametrize("name", [name for name in REACHING if name != "copy from"])
def test_files_are_read_where_that_is_asked_for(lake, files, name):
    sql(lake, REACHING[name], allow_files=True)


def test_files_are_written_where_that_is_asked_for(lake, files):
    sql(lake, "copy (select example from examples) to 'mine.csv'", allow_files=True)
    assert (files / "mine.csv").read_text().count("\n") == 16
    query = "select count(*) as n from examples join 'mine.csv' using (example)"
    assert sql(lake, query, allow_files=True).to_pydict() == {"n": [15]}


@pytest.mark.parametrize("name", ["unlock the lock", "python variables", "getenv", "write a view"])
def test_with_files_the_rest_stays_as_it_is(lake, files, name):
    with pytest.raises(VlmlakeError, match=r"^SQL: "):
        sql(lake, NEVER[name], allow_files=True)


def test_examples_by_a_condition(lake):
    run = connect(lake).execute("select run from runs").fetchone()[0]

    def chosen(condition):
        return examples_where(lake, [run], condition)[run]

    assert set(chosen("split = 'odd' and first_log_prob < -2")) == {"e03", "e13", "e23"}
    assert chosen("gold = 'no' -- nobody says no") == ()
    assert examples_where(lake, ["other"], "true") == {"other": ()}
    with pytest.raises(VlmlakeError, match=r"SQL: .*colour"):
        chosen("colour = 'red'")
    with pytest.raises(VlmlakeError, match="no SQL: Parser Error"):
        chosen("true); select (1")
    with pytest.raises(VlmlakeError, match="no SQL: Parser Error"):
        chosen("true) or (true")
    with pytest.raises(VlmlakeError, match="2 statements"):
        chosen("true; select 1")
    with pytest.raises(VlmlakeError, match="the condition is empty"):
        chosen(" ")
