"""How much a statement may fetch: told before anything is, in numbers, with what to do about it."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import duckdb
import pytest

from tests.queries.lakes import Plan, make_lake
from vlmlake.errors import VlmlakeError
from vlmlake.queries import Session, connect, scan, sql
from vlmlake.queries.meter import TooMuchError
from vlmlake.store_schema.storage import Storage

EVERYTHING = "select vector from hidden_states"
LITTLE = "select vector from hidden_states where layer = 'block_0' and token = 0 and example = '0.0/ä''a'"


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    return make_lake(str(tmp_path_factory.mktemp("lake") / "lake"), Plan(hidden=512))


@pytest.fixture
def fetched(monkeypatch):
    """Every part of a shard of activations that is read, but for indexes."""
    asked, read = [], Storage.read_spans

    def counted(self, spans):
        asked.extend(span for span in spans if "_states" in span[0] and span[2] != self.length(span[0]))
        return read(self, spans)

    monkeypatch.setattr(Storage, "read_spans", counted)
    return asked


def cost(lake, query):
    with Session.at(lake.url, limit=None) as session:
        return [scan.bytes for scan in session.explain(query)]


def test_the_estimate_of_what_is_refused_is_about_what_it_is(lake):
    (whole,) = cost(lake, EVERYTHING)
    for limit in (10_000, whole // 2):
        with Session.at(lake.url, limit=limit) as session:
            with pytest.raises(TooMuchError):
                session.ask(EVERYTHING)
            (scan,) = session.meter.scans
            assert 0.8 * whole < scan.bytes < 1.25 * whole


def test_arguments_of_another_kind_are_refused_by_name(lake):
    with pytest.raises(VlmlakeError, match=r"parameters are \[1\], expected values by the names of \$name"):
        sql(lake.url, "select $x as x", parameters=[1])
    with pytest.raises(VlmlakeError, match=r"runs is 'model', expected a list of names, as in \['model'\]"):
        connect(lake.url, runs="model")


def test_a_statement_beyond_the_limit_ends_before_a_chunk_is_read(lake, fetched):
    (whole,) = cost(lake, EVERYTHING)
    with Session.at(lake.url, limit=100_000) as session:
        with pytest.raises(TooMuchError) as refused:
            session.ask(EVERYTHING)
        told = str(refused.value)
        assert "hidden_states" in told
        assert "the limit is 100.0 kB" in told
        assert "layer = 'block_20'" in told
        assert "--limit" in told
        assert whole > 100_000
        assert fetched == []
        assert session.ask(LITTLE).table.num_rows == 1
        assert len(fetched) == 1
        assert len(session.connection.execute(LITTLE).fetchall()) == 1


def test_the_estimate_is_about_what_it_would_be(lake):
    (whole,) = cost(lake, EVERYTHING)
    with Session.at(lake.url, limit=whole // 3) as session:
        with pytest.raises(TooMuchError):
            session.ask(EVERYTHING)
        assert 0.5 < session.meter.scans[0].bytes / whole < 2


def test_just_enough_is_enough_and_none_lifts_it(lake):
    (whole,) = cost(lake, EVERYTHING)
    for limit in (whole, None):
        assert sql(lake.url, EVERYTHING, limit=limit).num_rows > 0
    with pytest.raises(TooMuchError):
        sql(lake.url, EVERYTHING, limit=whole - 1)


def test_the_scans_of_a_statement_count_together(lake, fetched):
    half = "select vector from hidden_states where layer = '{}'"
    both = f"{half.format('embed')} union all {half.format('block_0')}"
    first, second = cost(lake, both)
    with Session.at(lake.url, limit=first + second - 1) as session:
        for layer in ("embed", "block_0"):
            session.ask(half.format(layer))
        fetched.clear()
        with pytest.raises(TooMuchError, match=r"of hidden_states, .* of hidden_states, the limit"):
            session.ask(both)
        assert session.ask(half.format("embed")).table.num_rows > 0
    assert sql(lake.url, both, limit=first + second).num_rows > 0


def test_a_limit_is_on_chunks_not_on_rows(lake):
    (whole,) = cost(lake, EVERYTHING)
    assert sql(lake.url, "select count(*) as n from hidden_states", limit=0)["n"][0].as_py() > 0
    with pytest.raises(TooMuchError):
        sql(lake.url, f"{EVERYTHING} limit 1", limit=whole - 1)
    assert sql(lake.url, LITTLE, limit=whole // 3).num_rows == 1


def test_what_it_costs_is_said_whatever_the_limit(lake):
    with Session.at(lake.url, limit=0) as session:
        assert [scan.bytes for scan in session.explain(EVERYTHING)] == cost(lake, EVERYTHING)


def test_a_plain_connection_says_so_in_duckdb_s_words(lake, fetched):
    with connect(lake.url, limit=100_000) as connection:
        with pytest.raises(duckdb.Error, match=r"would fetch about .* of hidden_states, the limit is"):
            connection.execute(EVERYTHING).fetchall()
        assert fetched == []
        for _ in range(3):
            assert len(connection.execute(LITTLE).fetchall()) == 1


def test_polars_raises_it_as_it_is(lake, fetched):
    frame = scan(lake.run("toy"), "hidden_states", limit=100_000)
    with pytest.raises(TooMuchError, match=r"would fetch about .* of hidden_states"):
        frame.collect()
    assert fetched == []
    assert len(frame.filter(layer="block_0", token=0, example="0.0/ä'a").collect()) == 1
    assert len(frame.head(2).collect()) == 2
    assert len(scan(lake.run("toy"), "hidden_states", limit=None).collect()) > 2


@pytest.mark.parametrize("how", ["ask", "execute"])
def test_a_refusal_holds_on_to_no_connection(lake, how):
    session = Session.at(lake.url, limit=100_000)
    meter = weakref.ref(session.meter)
    with session, pytest.raises((TooMuchError, duckdb.Error)):
        (session.ask if how == "ask" else session.connection.execute)(EVERYTHING)
    del session
    gc.collect()
    assert meter() is None


def test_nothing_is_said_at_the_end_of_a_program_that_was_refused(lake):
    program = f"""
import duckdb
from vlmlake.queries import connect
with connect({lake.url!r}, limit=5) as connection:
    try:
        connection.execute("select vector from hidden_states").fetchall()
    except duckdb.Error as error:
        print("refused")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("refused", "")
