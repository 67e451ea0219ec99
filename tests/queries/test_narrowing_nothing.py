"""Statements whose tables choose every example are asked as they are: a list of all of them leaves nothing out."""

from __future__ import annotations

import pytest

from tests.store_schema.toy_runs import toy_run
from vlmlake.queries import Session, narrowed

JOINED = "SELECT e.split, count(vector) AS n FROM readout_states JOIN examples AS e USING (run, example)"
CHOSEN = "SELECT count(vector) AS n FROM readout_states WHERE example IN (SELECT example FROM examples{})"


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    with Session.at(toy_run(str(tmp_path_factory.mktemp("lake"))).storage.url) as session:
        yield session


@pytest.mark.parametrize(
    "query",
    [
        f"{JOINED} GROUP BY ALL",
        f"{JOINED} WHERE e.gold = 'yes' GROUP BY ALL",
        CHOSEN.format(""),
        CHOSEN.format(" WHERE gold = 'yes'"),
    ],
)
def test_all_examples_are_not_listed(session, query):
    assert narrowed(session.connection, query) == query


@pytest.mark.parametrize(
    "query", [f"{JOINED} WHERE e.split = 'odd' GROUP BY ALL", CHOSEN.format(" WHERE split = 'odd'")]
)
def test_fewer_are_listed_and_read(session, query):
    assert "'e01'" in narrowed(session.connection, query)
    (scan,) = session.ask(query).scans
    examples, layers, positions = 6, 3, 3
    assert scan.rows == examples * layers * positions
