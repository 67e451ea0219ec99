"""Relations of a lake in an object store or behind a web server: the same answers, for requests that can be counted."""

from __future__ import annotations

import pytest

from tests.queries.lakes import Plan, make_lake
from tests.queries.materialised import KEYS, in_order
from tests.servers import FileServer
from vlmlake import open_lake
from vlmlake.errors import DamagedError
from vlmlake.queries import Session, scan
from vlmlake.store_schema import shard_part
from vlmlake.store_schema.arrays import shard_file
from vlmlake.store_schema.storage import Storage

PLANS = Plan("a", hidden=64), Plan("b", shared=False, grids=((3, 3),), behind=(1,))
ONE_LAYER = "select example, token, vector from hidden_states where run = '{}' and layer = 'block_0'"


@pytest.fixture(scope="module")
def near(tmp_path_factory):
    return make_lake(str(tmp_path_factory.mktemp("lake") / "lake"), *PLANS)


@pytest.fixture(scope="module")
def web(near):
    with FileServer(near.url) as server:
        yield server


@pytest.fixture(scope="module")
def in_s3(s3):
    return make_lake(s3.bucket("queries") + "/some/lake", *PLANS, storage_options=s3.options)


def answers(url, options=None):
    with Session.at(url, options) as session:
        return {name: session.ask(f"select * from {name} order by all").table for name in KEYS}


def test_a_web_server_gives_the_same_relations(near, web):
    assert answers(web.url) == answers(near.url)
    here, far = (scan([lake.run("a"), lake.run("b")], "tokens").collect() for lake in (near, open_lake(web.url)))
    assert in_order(far, "tokens").equals(in_order(here, "tokens"))


def test_an_object_store_gives_the_same_relations(near, s3, in_s3):
    assert answers(in_s3.url, s3.options) == answers(near.url)


def test_one_layer_costs_a_request_for_each_chunk_and_each_index_that_is_not_known(near, web, monkeypatch):
    monkeypatch.setattr(shard_part, "_indexes", {})
    with Session.at(web.url) as session:
        query = ONE_LAYER.format(near.run("a").name)
        session.ask("select count(*) from hidden_states")
        before = web.requests
        (facts,) = session.ask(query).scans
        states = [entry for entry in web.log[before:] if "_states/" in entry.path]
        assert len(states) == facts.requests == facts.chunks + 6  # three batches of two arrays
        assert all(entry.range for entry in states)
        before = web.requests
        again = session.ask(query)
        assert web.requests - before == again.scans[0].requests == again.scans[0].chunks == facts.chunks


def test_requests_go_out_in_rounds_however_many_there_are(near, web, monkeypatch):
    monkeypatch.setattr(shard_part, "_indexes", {})
    rounds, read = [], Storage.read_spans
    monkeypatch.setattr(Storage, "read_spans", lambda self, spans: rounds.append(len(spans)) or read(self, spans))
    with Session.at(web.url) as session:
        rounds.clear()
        (facts,) = session.ask(ONE_LAYER.format(near.run("a").name)).scans
        assert sum(rounds) == facts.requests
        assert len([size for size in rounds if size]) == 4  # indexes, then chunks, of two arrays


def test_what_a_server_lost_is_named(tmp_path):
    lake = make_lake(str(tmp_path / "lake"), Plan())
    record = lake.run("toy").record
    spec = next(spec for spec in record.specs if spec.name == "readout_states")
    with FileServer(lake.url) as web, Session.at(web.url) as session:
        (tmp_path / "lake" / shard_file(record, spec, 1)).unlink()
        with pytest.raises(DamagedError, match=r"readout_states of batch 1 of toy-.* is damaged: its shard is missing"):
            session.ask("select vector from readout_states")
        assert session.ask("select vector from readout_states where example < '1'").table.num_rows > 0
