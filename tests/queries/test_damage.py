"""What is wrong with a lake is said by name, by SQL and by Polars alike, and the connection goes on."""

from __future__ import annotations

from pathlib import Path

import duckdb
import polars as pl
import pytest

from tests.queries.lakes import Plan, make_lake
from vlmlake.errors import DamagedError, NotKeptError, VlmlakeError
from vlmlake.queries import Session, connect, scan
from vlmlake.store_schema import shard_part
from vlmlake.store_schema.arrays import shard_file

ARRAY_OF = {
    "hidden_states": ("hidden_states", "vector"),
    "readout_states": ("readout_states", "vector"),
    "attention": ("attention", "weights"),
    "attention_image": ("prefix_attention", "weights"),
    "logits_top": ("logits", "logit"),
    "tokens": ("token_id", "id"),
    "prefixes": ("image_row", "grid_rows"),
}


@pytest.fixture
def lake(tmp_path):
    return make_lake(str(tmp_path / "lake"), Plan(committed=(0, 1)))


def shard(lake, array, number):
    record = lake.run("toy").record
    spec = next(spec for spec in record.specs if spec.name == array)
    shard_part._indexes.clear()
    return Path(lake.url) / shard_file(record, spec, number)


@pytest.mark.parametrize("damage", ["missing", "cut short", "changed"])
@pytest.mark.parametrize("relation", ARRAY_OF)
def test_a_damaged_shard_is_named_and_other_batches_are_read(lake, relation, damage):
    array, column = ARRAY_OF[relation]
    keys = "run" if relation == "prefixes" else "example"
    with Session.at(lake.url) as session:
        path = shard(lake, array, 1)
        content = path.read_bytes()
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(content[:20] if damage == "cut short" else bytes(byte ^ 255 for byte in content))
        named = f"{array} of batch 1 of toy-.* is damaged: .*{path.name}"
        with pytest.raises(DamagedError, match=named):
            session.ask(f"select {column} from {relation}")
        with pytest.raises(DamagedError, match=named):
            session.ask(f"select {column} from {relation}")
        assert session.ask(f"select {keys} from {relation}").table.num_rows > 0
        chosen = "prefix < 2" if relation == "prefixes" else "example < '1'"
        assert session.ask(f"select {column} from {relation} where {chosen}").table.num_rows > 0
        with pytest.raises(duckdb.Error, match=named):
            session.connection.execute(f"select {column} from {relation}").fetchall()
        assert session.connection.execute("select count(*) from examples").fetchone() == (8,)


@pytest.mark.parametrize("relation", ["hidden_states", "tokens", "attention_image"])
def test_polars_names_it_too(lake, relation):
    array, column = ARRAY_OF[relation]
    frame = scan(lake.run("toy"), relation).select("example", column)
    shard(lake, array, 1).unlink()
    with pytest.raises(DamagedError, match=f"{array} of batch 1 of toy-.* is damaged"):
        frame.collect()
    assert len(frame.filter(pl.col("example") < "1").collect()) > 0


@pytest.mark.parametrize("array", ["prefix_token_role", "image_row", "image_column"])
def test_tables_are_there_whatever_is_wrong_with_the_tokens(tmp_path, array):
    lake = make_lake(str(tmp_path / "lake"), Plan(grids=((3, 3),), behind=(1,), shared=False))
    for number in range(3):
        path = shard(lake, array, number)
        path.write_bytes(bytes(byte ^ 255 for byte in path.read_bytes()))
    with connect(lake.url) as connection:
        assert connection.execute("select count(*) from examples").fetchone() == (12,)
        assert connection.execute("select count(vector) from readout_states").fetchone()[0] > 0
        with pytest.raises(duckdb.Error, match=f"{array} of batch 0 of toy-.* is damaged"):
            connection.execute("select weights from attention_image").fetchall()


def test_what_no_run_keeps_is_named_by_every_way_to_ask(tmp_path):
    lake = make_lake(str(tmp_path / "lake"), Plan(arrays=["logits"]))
    named = "attention_image needs prefix_attention or attention or readout_attention, which toy-.* did not keep"
    with Session.at(lake.url) as session:
        for query in ("select * from attention_image", "select count(*) from attention_image where layer = 'x'"):
            with pytest.raises(NotKeptError, match=named):
                session.ask(query)
            with pytest.raises(NotKeptError, match=named):
                session.explain(query)
            with pytest.raises(duckdb.Error, match=named):
                session.connection.execute(query).fetchall()
        assert session.ask("select count(*) as n from logits_top").table["n"][0].as_py() > 0
    with pytest.raises(NotKeptError, match=named):
        scan(lake.run("toy"), "attention_image")


def test_an_error_of_one_statement_is_not_told_of_the_next(lake):
    with Session.at(lake.url) as session:
        shard(lake, "readout_states", 0).unlink()
        with pytest.raises(DamagedError):
            session.ask("select vector from readout_states")
        with pytest.raises(VlmlakeError, match=r"^SQL: Binder Error"):
            session.ask("select nothing from readout_states")
