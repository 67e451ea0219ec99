"""What a query reads of the arrays: the chunks that hold the rows asked for, each once, and what was said before."""

from __future__ import annotations

import sys
from collections import Counter

import polars as pl
import pytest

from tests.queries.lakes import EVERY_ARRAY, POSITIONS, Plan, make_lake
from vlmlake.queries import Session, scan
from vlmlake.store_schema import shard_part
from vlmlake.store_schema.arrays import shard_file, shard_format
from vlmlake.store_schema.storage import Storage

CONDITIONS = {
    "run": "run = '{b}'",
    "no run": "run = 'none'",
    "example": "example = '1.1/ä''a'",
    "examples of one row": "example in ('0.0/ä''a', '0.0/ä''b') and run = '{a}'",
    "layer": "layer = 'block_1'",
    "layers": "layer in ('embed', 'block_0')",
    "head": "head = 1 and layer = 'block_0'",
    "token": "token = 0",
    "tokens": "token between 20 and 25",
    "last tokens": "token > 16 and token < 19 and run = '{a}'",
    "query": "query = 18",
    "role": "role = 'image'",
    "roles": "role in ('cue', 'answer') and layer <> 'embed'",
    "position": "position = 'answer_0'",
    "positions": "position is not null and position <> 'prompt_last'",
    "no position": "position is null and layer = 'embed'",
    "rank": "rank = 3",
    "all": "layer = 'block_1' and position = 'prompt_last' and example >= '2'",
    "or": "(layer = 'block_0' and token = 3) or (layer = 'embed' and token = 19)",
}
ASKED = {
    "hidden_states": ("vector", ("run", "example", "layer", "token", "role", "position")),
    "readout_states": ("vector", ("run", "example", "layer", "position")),
    "attention": ("weights", ("run", "example", "layer", "head", "query", "role", "position")),
    "attention_image": ("weights", ("run", "example", "layer", "head", "query", "role", "position")),
    "logits_top": ("logit", ("run", "example", "position", "rank")),
}


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """Two runs; chunks of several sizes: long vectors, so that few tokens or examples fill one."""
    plans = (
        Plan("a", hidden=2048, heads=3, vocab=30_000),
        Plan("b", "bfloat16", shared=False, hidden=512, committed=(1,), arrays=[*EVERY_ARRAY[:3], "logits"]),
        Plan("c", hidden=2048, arrays=["readout_attention", "readout_states"], committed=(0, 2)),
    )
    return make_lake(str(tmp_path_factory.mktemp("lake") / "lake"), *plans)


@pytest.fixture(scope="module")
def frames(lake):
    """The keys of every relation, and of prefixes which each example has."""
    return {name: scan(runs_of(lake), name, None).select(keys).collect() for name, (_, keys) in ASKED.items()}


def runs_of(lake):
    return [lake.run(name) for name in lake.runs]


@pytest.fixture(scope="module")
def session(lake):
    with Session.at(lake.url, limit=None) as session:
        yield session


def place_of(relation, run, example, row):
    """Of a row of a relation the array, and the place of its vector in it: by the format's page, not by the scan."""
    record, arrays = run.record, run.record.arrays
    layer = [record.layers.index(row["layer"])] if "layer" in row else []
    if relation in ("readout_states", "logits_top"):
        name = "logits" if relation == "logits_top" else relation
        return name, (example["row"], *layer, record.positions.index(row["position"]))
    token = row.get("token", row.get("query"))
    head = [row["head"]] if "head" in row else []
    inside = token < example["prefix_tokens"]
    after = token - example["prefix_tokens"]
    if relation == "hidden_states":
        name = "prefix_states" if inside else "hidden_states"
    else:
        name = "prefix_attention" if inside else "attention"
        if name == "attention" and name not in arrays:
            name, after = "readout_attention", record.positions.index(row["position"])
    return name, (example["prefix"] if inside else example["row"], *layer, *head, token if inside else after)


def chunks_of(lake, relation, rows):
    """Every chunk that holds some of the rows: the file of its shard, and its place there."""
    wanted = set()
    for run in runs_of(lake):
        examples = {one["example"]: one for one in run.examples().to_dicts()}
        for row in rows.filter(run=run.name).iter_rows(named=True):
            name, place = place_of(relation, run, examples[row["example"]], row)
            spec = next(spec for spec in run.record.specs if spec.name == name)
            layout = spec.layout(run.record.extents, run.record.stored_dtype)
            batch, first = divmod(place[0], layout.shards[0])
            inside = (first, *place[1:])
            lead = tuple(at // piece for at, piece in zip(inside, layout.chunks, strict=False))
            tails = [range(whole // piece) for whole, piece in zip(layout.shards, layout.chunks, strict=True)][
                len(place) :
            ]
            assert all(len(tail) == 1 for tail in tails)
            wanted.add((shard_file(run.record, spec, batch), (*lead, *(0 for _ in tails))))
    return wanted


def spans_of(lake, chunks):
    """Where those chunks lie, and how long they are; not those that nothing was written to."""
    found = {}
    for path, place in chunks:
        for run in runs_of(lake):
            for spec in run.record.batch_specs:
                for number in range(3):
                    if path == shard_file(run.record, spec, number):
                        form = shard_format(run.record, spec)
                        content = lake.storage.read(path)
                        found |= {
                            (path, *span): span[1] - span[0]
                            for span in form.spans_at(form.index(content[-form.index_bytes :]), [place]).values()
                        }
    return found


@pytest.fixture
def fetched(monkeypatch):
    """Every part of a file that is read, but for indexes, which are read and forgotten before."""
    asked, read = [], Storage.read_spans

    def counted(self, spans):
        asked.extend(spans)
        return read(self, spans)

    monkeypatch.setattr(Storage, "read_spans", counted)
    return asked


def cases():
    for relation, (_, keys) in ASKED.items():
        for name, condition in CONDITIONS.items():
            named = [key for key in ("token", "query", "head", "role", "position", "rank", "layer") if key in condition]
            if all(key in keys for key in named):
                yield relation, name


@pytest.mark.parametrize(("relation", "name"), list(cases()))
def test_exactly_the_chunks_of_the_rows_asked_for_are_read(lake, frames, session, fetched, relation, name):
    a, b, _ = lake.runs
    condition = CONDITIONS[name].format(a=a, b=b)
    rows = frames[relation].sql(f"select * from self where {condition}")
    expected = spans_of(lake, chunks_of(lake, relation, rows))
    query = f"select {ASKED[relation][0]} from {relation} where {condition}"
    said = session.explain(query)
    fetched.clear()
    answer = session.ask(query)
    of_arrays = Counter(span for span in fetched if span in expected or not is_other(lake, span))
    assert of_arrays == Counter(dict.fromkeys(expected, 1))
    assert answer.table.num_rows == len(rows)
    assert sum(scan.chunks for scan in answer.scans) == len(expected)
    assert sum(scan.bytes for scan in answer.scans) == sum(expected.values())
    assert [(one.rows, one.chunks, one.bytes) for one in said] == [
        (one.rows, one.chunks, one.bytes) for one in answer.scans
    ]


def is_other(lake, span):
    """Whether a part of a file is an index, or of an array that says what tokens are."""
    path = span[0]
    if "token" in path.split("/arrays.zarr/")[-1].split("/")[0] or "image_" in path.split("/arrays.zarr/")[-1]:
        return True
    return span[2] == lake.storage.length(path)


@pytest.mark.parametrize("relation", [*ASKED, "tokens", "prefixes"])
def test_keys_alone_and_counts_read_no_chunk_of_an_array(session, fetched, relation):
    keys = ASKED.get(relation, (None, ("run",)))[1]
    for columns in ("count(*)", "distinct run", *keys):
        fetched.clear()
        answer = session.ask(f"select {columns} from {relation}")
        assert sum(scan.chunks + scan.bytes for scan in answer.scans) == 0
        assert not [span for span in fetched if "_states" in span[0] or "logits" in span[0] or "attention" in span[0]]


def test_the_shape_of_images_is_known_without_their_weights(session, fetched):
    answer = session.ask("select grid_rows, grid_columns from attention_image where layer = 'block_0'")
    assert answer.table.num_rows > 0
    assert sum(scan.chunks for scan in answer.scans) == 0
    assert not [span for span in fetched if "attention" in span[0]]


def test_what_is_said_before_reads_indexes_alone(lake, session, fetched, monkeypatch):
    monkeypatch.setattr(shard_part, "_indexes", {})
    said = session.explain("select vector from hidden_states where layer = 'block_0'")
    assert len(fetched) == sum(scan.requests - scan.chunks for scan in said) > 0
    assert all(end == lake.storage.length(path) for path, _, end in fetched)
    assert all("states" in path for path, _, _ in fetched)


def test_after_asking_what_a_query_costs_the_connection_reads_again(session):
    session.explain("select vector from readout_states")
    assert len(session.connection.execute("select vector from readout_states").fetchall()) > 0


@pytest.mark.parametrize(("relation", "value"), [(name, value) for name, (value, _) in ASKED.items()])
def test_chunks_that_pieces_share_are_counted_as_often_as_they_are_read(session, fetched, monkeypatch, relation, value):
    monkeypatch.setattr(sys.modules[scan.__module__], "PIECE_BYTES", 50_000)
    query = f"select {value} from {relation}"
    said = session.explain(query)
    session.ask(query)
    fetched.clear()
    answer = session.ask(query)
    of_arrays = [span for span in fetched if "token" not in span[0] and "image_" not in span[0]]
    assert sum(scan.chunks for scan in said) == sum(scan.chunks for scan in answer.scans) == len(of_arrays)
    assert sum(scan.bytes for scan in said) == sum(end - start for _, start, end in of_arrays)


def test_the_first_rows_need_the_first_chunks_only(lake, fetched):
    frame = scan(lake.run("a"), "hidden_states").filter(layer="block_0").select("vector")
    for rows in (scan(lake.run("a"), "hidden_states").select("vector").head(2), frame):
        rows.collect()
    fetched.clear()
    scan(lake.run("a"), "hidden_states").select("vector").head(2).collect()
    few = len(fetched)
    frame.collect()
    assert few == 1 < len(fetched) - few


@pytest.mark.parametrize("position", POSITIONS)
def test_polars_reads_as_little_as_sql(lake, session, fetched, position):
    columns, asked = ["example", "vector"], (pl.col("position") == position) & (pl.col("layer").is_in(["block_0"]))
    frame = scan(lake.run("a"), "readout_states").filter(asked).select(columns)
    query = f"select example, vector from readout_states where position = '{position}' and layer in ('block_0') "
    query += f"and run = '{lake.runs[0]}'"
    frame.collect()
    session.ask(query)
    fetched.clear()
    found = session.connection.execute(query).fetchall()
    assert frame.collect().rows() == [(example, list(vector)) for example, vector in found]
    assert Counter(fetched).most_common(1)[0][1] == 2
    assert len(fetched) == 2 * len(set(fetched))
