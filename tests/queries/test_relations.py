"""Every row and every column of every relation, as the Dataset and the tables have them."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import duckdb
import polars as pl
import pytest

from tests.queries.lakes import EVERY_ARRAY, Plan, make_lake
from tests.queries.materialised import KEYS, Memory, as_rows, has_rows, in_order, materialised
from vlmlake.errors import NotKeptError, UnknownNameError, VlmlakeError
from vlmlake.queries import Session, connect, scan
from vlmlake.queries.relations import RELATIONS
from vlmlake.store_schema.capture_plan import BUILT_IN
from vlmlake.store_schema.lake import create_lake
from vlmlake.store_schema.run import Run

WITHOUT_PREFIX = tuple(name for name in EVERY_ARRAY if not name.startswith("prefix_"))
PLANS = {
    "float16": (Plan(),),
    "bfloat16, unshared": (Plan(dtype="bfloat16", shared=False),),
    "float32, images of one size, cells in no order": (Plan("shuffled", "float32", grids=((3, 4),), behind=(1,)),),
    "full": (Plan(arrays=BUILT_IN["full"], committed=(1,)),),
    "suffix": (Plan(arrays=BUILT_IN["suffix"], shared=False, committed=(2,)),),
    "readout": (Plan(arrays=BUILT_IN["readout"], committed=(0, 1)),),
    "readout, unshared, some positions": (
        Plan(arrays=BUILT_IN["readout"], shared=False, positions=("prompt_last",), committed=(1,)),
    ),
    "no prefix states": (Plan(arrays=WITHOUT_PREFIX, committed=(1,)),),
    "prefix states only": (Plan(arrays=("prefix_states", "prefix_attention", "readout_attention")),),
    "some layers and positions": (
        Plan(layers=("block_0", "block_3"), positions=("prompt_last", "answer_1"), committed=(0, 1)),
    ),
    "no embed, few words": (Plan(layers=("block_1",), vocab=7, committed=(2,)),),
    "some batches": (Plan(committed=(2, 0)),),
    "no batch": (Plan(committed=()),),
    "images of two sizes, prefixes of one": (Plan(grids=((2, 3), (3, 2)), behind=(2,), shared=False),),
    "families": (
        Plan("a", hidden=4, grids=((2, 2),), arrays=BUILT_IN["suffix"]),
        Plan("b", "bfloat16", hidden=6, shared=False, heads=3, grids=((3, 3),), committed=(0, 2)),
        Plan("c", "float32", hidden=4, vocab=20, arrays=BUILT_IN["readout"], committed=(1,)),
        Plan("none", hidden=8, committed=()),
    ),
}


VARIED = ("bfloat16, unshared", "families")
"""Plans under which rows are asked for in more ways than all at once."""


@dataclass(frozen=True)
class Opened:
    """A lake, its runs, what they hold, and a session."""

    runs: list[Run]
    memories: list[Memory]
    session: Session

    def keep(self, relation: str) -> bool:
        return any(has_rows(run, relation) for run in self.runs)


@pytest.fixture(scope="module", params=PLANS)
def opened(request, tmp_path_factory):
    lake = make_lake(str(tmp_path_factory.mktemp("lake") / "lake"), *PLANS[request.param])
    runs = [lake.run(name) for name in lake.runs]
    with Session.at(lake.url) as session:
        yield Opened(runs, [Memory(run) for run in runs], session)


@pytest.mark.parametrize("relation", KEYS)
def test_a_relation_has_every_row_and_column_of_its_runs(opened, relation):
    if not opened.keep(relation):
        name = opened.runs[0].name
        with pytest.raises(NotKeptError, match=f"{relation} needs .*{name}"):
            scan(opened.runs, relation)
        with pytest.raises(NotKeptError, match=f"{relation} needs .*{name}"):
            opened.session.ask(f"select count(*) from {relation}")
        return
    found = scan(opened.runs, relation).collect()
    expected = as_rows(materialised(opened.memories, relation, found.schema))
    assert as_rows(in_order(found, relation)) == expected
    assert expected or not any(run.batches_done for run in opened.runs)
    told = pl.DataFrame(opened.session.ask(f"select * from {relation}").table)
    assert told.columns == found.columns
    assert as_rows(in_order(told, relation)) == expected


@pytest.mark.parametrize("opened", VARIED, indirect=True)
@pytest.mark.parametrize("relation", KEYS)
def test_each_column_alone_is_as_beside_the_others(opened, relation):
    whole = scan(opened.runs, relation).collect()
    for column in whole.columns:
        alone = scan(opened.runs, relation).select(column).collect()
        assert as_rows(alone) == as_rows(whole.select(column)), column


@pytest.mark.parametrize("opened", VARIED, indirect=True)
@pytest.mark.parametrize("relation", KEYS)
def test_rows_read_in_small_pieces_are_the_same(opened, monkeypatch, relation):
    whole = scan(opened.runs, relation).collect()
    monkeypatch.setattr(sys.modules[scan.__module__], "PIECE_BYTES", 700)
    monkeypatch.setattr(sys.modules[scan.__module__], "ROWS_A_UNIT", 40)
    found = scan(opened.runs, relation).collect()
    assert as_rows(in_order(found, relation)) == as_rows(in_order(whole, relation))


def test_vectors_of_one_width_are_arrays_and_of_several_are_lists(tmp_path):
    fixed = Plan("c", grids=((3, 3),), behind=(1,))
    url = make_lake(str(tmp_path / "lake"), Plan("a"), Plan("b", hidden=6, committed=(0,)), fixed).url

    def kind(column, relation, runs=None):
        with connect(url, runs=runs) as connection:
            return connection.execute(f"select typeof({column}) from {relation} limit 1").fetchone()[0]

    assert kind("vector", "hidden_states") == kind("vector", "readout_states") == "FLOAT[]"
    assert kind("vector", "hidden_states", ["a"]) == "FLOAT[4]"
    assert kind("vector", "readout_states", ["b"]) == "FLOAT[6]"
    assert kind("weights", "attention_image", ["c"]) == "FLOAT[9]"
    assert kind("weights", "attention_image") == "FLOAT[]"
    assert kind("weights", "attention", ["a"]) == kind("weights", "attention_image", ["a"]) == "FLOAT[]"


@pytest.mark.parametrize("relation", KEYS)
def test_a_lake_without_runs_has_relations_without_rows(tmp_path, relation):
    url = create_lake(str(tmp_path / "lake")).url
    with Session.at(url) as session:
        told = session.ask(f"select * from {relation}").table
        assert (told.num_rows, told.num_columns) == (
            0,
            len(next(one for one in RELATIONS if one.name == relation).schema(())),
        )
    assert scan([], relation).collect().is_empty()


def test_a_relation_or_a_run_that_does_not_exist_is_named(tmp_path):
    lake = make_lake(str(tmp_path / "lake"), Plan(committed=(0,)))
    with pytest.raises(UnknownNameError, match="no relation named states: there are hidden_states"):
        scan(lake.run("toy"), "states")
    with pytest.raises(UnknownNameError, match="no single run named other"):
        Session.at(lake.url, runs=["other"])
    with pytest.raises(UnknownNameError, match="no single run named other"):
        connect(lake.url, runs=["toy", "other"])
    with Session.at(lake.url) as session:
        with pytest.raises(VlmlakeError, match=r"SQL: Catalog Error: .*no_such_relation"):
            session.ask("select * from no_such_relation")
        assert session.ask("select 1 as one").table.to_pydict() == {"one": [1]}


def test_a_connection_sees_what_was_there_when_it_was_made(tmp_path):
    plan = Plan(committed=(0,))
    lake = make_lake(str(tmp_path / "lake"), plan)
    frame, connection = scan(lake.run("toy"), "readout_states"), connect(lake.url)
    assert isinstance(connection, duckdb.DuckDBPyConnection)
    before = connection.execute("select count(*) from readout_states").fetchone()
    again = make_lake(str(tmp_path / "lake"), Plan(committed=(1,)))
    assert connection.execute("select count(*) from readout_states").fetchone() == before
    assert (len(frame.collect()),) == before
    assert len(scan(again.run("toy"), "readout_states").collect()) > before[0]
