"""Many threads at once over one reading of a lake: a connection each, or a session each."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.queries.lakes import Plan, make_lake
from vlmlake.queries import Catalog, Meter, Session

TIMEOUT = 60
"""Seconds for 200 queries, which take two: threads that wait for one another wait for ever."""

QUERIES = (
    "select example, token, vector from hidden_states where layer = 'block_0' and token < 4",
    "select count(*), sum(list_sum(weights)) from attention where role = 'cue'",
    "select position, text from logits_top where rank = 1",
    "select token, text from tokens where example in (select example from examples where row = 1)",
    "select vector from readout_states join examples using (run, example) where split = 'odd'",
    "select * from prefixes",
    "select weights, grid_rows from attention_image where head = 0 and query = 3",
    "select layer_number(layer), count(vector) from hidden_states group by all",
)

PROGRAM = """
import sys
from tests.queries.test_threads import asked_by_threads
print(asked_by_threads(sys.argv[1], sys.argv[2]))
"""


def told(connection, query):
    return sorted(map(repr, connection.execute(query).fetchall()))


def asked_by_threads(url, how):
    """Ask 200 times from four threads; how many answers were as one thread alone has them."""
    catalog = Catalog.at(url)
    with catalog.connect(Meter(None)) as connection:
        expected = [told(connection, query) for query in QUERIES]
    fresh = Catalog.at(url)

    def work(thread):
        if how == "connections":
            with fresh.connect(Meter(None)) as own:
                return sum(told(own, QUERIES[(thread + n) % 8]) == expected[(thread + n) % 8] for n in range(50))
        with Session.of(fresh) as session:
            right = 0
            for n in range(50):
                table = session.ask(QUERIES[(thread + n) % 8]).table
                right += table.num_rows == len(expected[(thread + n) % 8])
            return right

    with ThreadPoolExecutor(4) as pool:
        return sum(pool.map(work, range(4)))


@pytest.mark.parametrize("how", ["connections", "sessions"])
def test_two_hundred_queries_of_four_threads_end_and_agree(tmp_path, how):
    url = make_lake(
        str(tmp_path / "lake"), Plan("a", committed=(0,)), Plan("b", shared=False, hidden=6, committed=(1,))
    ).url
    # In a process of its own: what hangs in a lock cannot be interrupted from within.
    done = subprocess.run([sys.executable, "-c", PROGRAM, url, how], capture_output=True, text=True, timeout=TIMEOUT)
    assert done.stdout.split() == ["200"], done.stderr
