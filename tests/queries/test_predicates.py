"""Any condition over keys and values, asked of a relation in SQL and in Polars: the rows that tables in memory give."""

from __future__ import annotations

from functools import reduce
from operator import and_, or_

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.queries.lakes import EVERY_ARRAY, Plan, make_lake
from tests.queries.materialised import KEYS
from vlmlake.errors import VlmlakeError
from vlmlake.queries import Session, connect, scan

COLUMNS = {
    "hidden_states": ("vector",),
    "readout_states": ("vector",),
    "attention": ("weights",),
    "attention_image": ("weights", "grid_rows", "grid_columns"),
    "logits_top": ("token_id", "text", "logit", "log_prob"),
    "tokens": ("role", "position", "id", "text", "image_row", "image_column"),
    "prefixes": ("image", "tokens", "image_tokens", "grid_rows", "examples"),
}
TEXT = {
    "run": ("a-", "b-"),
    "example": ("0.0/ä'a", "1.1/ä'a", "2.2/ä'a", "z"),
    "layer": ("embed", "block_0", "block_1"),
    "role": ("image", "question", "answer"),
    "position": ("prompt_last", "answer_0", "answer_1"),
}
NUMBERS = {"token": 21, "query": 21, "head": 2, "rank": 11, "prefix": 7}
LISTS = {"vector": 0.5, "weights": 0.6}
VALUES = {"logit": (-1.0, 1.5), "token_id": (0, 5), "id": (2, 9), "image_row": (0, 1), "tokens": (5, 12)}


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    kept = [name for name in EVERY_ARRAY if name != "prefix_attention"]
    plans = Plan("a", arrays=kept, committed=(0, 2)), Plan("b", "float32", shared=False, hidden=5, committed=(1,))
    return make_lake(str(tmp_path_factory.mktemp("lake") / "lake"), *plans)


@pytest.fixture(scope="module")
def runs(lake):
    return [lake.run(name) for name in lake.runs]


@pytest.fixture(scope="module")
def frames(runs):
    """Every relation whole."""
    return {name: scan(runs, name).collect() for name in KEYS}


@pytest.fixture(scope="module")
def plain(frames):
    told = duckdb.connect()
    for name, frame in frames.items():
        told.register("there", frame.to_arrow())
        told.execute(f"create table {name} as select * from there")
    yield told
    told.close()


@pytest.fixture(scope="module")
def session(lake):
    with Session.at(lake.url) as session:
        yield session


@pytest.fixture(scope="module")
def connection(lake):
    with connect(lake.url) as connection:
        yield connection


def keys_of(relation):
    more = ("role", "position") if "token" in KEYS[relation] or "query" in KEYS[relation] else ()
    return (*KEYS[relation], *more)


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


def sql_conditions(relation):
    """Conditions in SQL over the columns of a relation."""
    texts = [name for name in keys_of(relation) if name in TEXT]
    numbers = [name for name in KEYS[relation] if name in NUMBERS]
    leaves = []
    for name in texts:
        value = st.sampled_from(TEXT[name]).map(quoted)
        several = st.lists(st.one_of(value, st.just("null")), min_size=1, max_size=3).map(", ".join)
        leaves += [
            st.tuples(st.sampled_from(["=", "<>", "<", ">=", "is distinct from", "is not distinct from"]), value).map(
                lambda two, name=name: f"{name} {two[0]} {two[1]}"
            ),
            several.map(lambda listed, name=name: f"{name} in ({listed})"),
            several.map(lambda listed, name=name: f"{name} not in ({listed})"),
            st.tuples(value, value).map(lambda two, name=name: f"{name} between {two[0]} and {two[1]}"),
            st.sampled_from(["{} is null", "{} is not null", "{} = null", "length({}) > 7", "upper({}) = 'IMAGE'"]).map(
                lambda form, name=name: form.format(name)
            ),
            st.sampled_from(["a%", "%_0", "%l%", "", "%"]).map(lambda like, name=name: f"{name} like '{like}'"),
            st.sampled_from(["prefix({}, 'b')", "contains({}, 'a')", "{} || 'x' = 'imagex'", "{} ^@ 'an'"]).map(
                lambda form, name=name: form.format(name)
            ),
        ]
    for name in numbers:
        value = st.integers(-1, NUMBERS[name])
        literal = st.one_of(value.map(str), value.map(lambda n: f"{n}.5"), st.just("null"), st.just("3000000000"))
        compared = st.sampled_from(["=", "<>", "<", "<=", ">", ">=", "is distinct from"])
        leaves += [
            st.tuples(compared, literal).map(lambda two, name=name: f"{name} {two[0]} {two[1]}"),
            st.tuples(literal, compared).map(lambda two, name=name: f"{two[0]} {two[1]} {name}"),
            st.lists(literal, min_size=1, max_size=4).map(lambda n, name=name: f"{name} in ({', '.join(n)})"),
            st.lists(value, min_size=1, max_size=4).map(lambda n, name=name: f"{name} not in ({str(n)[1:-1]})"),
            st.tuples(value, literal).map(lambda two, name=name: f"{name} between {two[0]} and {two[1]}"),
            value.map(lambda n, name=name: f"{name} * 2 + 1 > {n}"),
            value.map(lambda n, name=name: f"{name} % 3 = {n % 3}"),
            value.map(lambda n, name=name: f"cast({name} as varchar) = '{n}'"),
            value.map(lambda n, name=name: f"{name}::bigint - 1 = {n}"),
        ]
    for name in COLUMNS[relation]:
        if name in LISTS:
            leaves += [
                st.floats(-2, 2).map(lambda x, name=name: f"list_sum({name}) > {x:.3f}"),
                st.floats(-1, 1).map(lambda x, name=name: f"{name}[1] < {x:.3f}"),
                st.integers(0, 30).map(lambda n, name=name: f"len({name}) <> {n}"),
            ]
        elif name in VALUES:
            low, high = VALUES[name]
            leaves += [
                st.sampled_from([f"{name} > {low}", f"{name} = {high}", f"{name} is null", f"not {name} <= {high}"]),
                st.sampled_from([f"{name} in ({low}, {high})", f"coalesce({name}, 0) < {high}", f"{name} <> null"]),
            ]
    pairs = {"tokens": ["id > token", "image_row = image_column"], "logits_top": ["rank > token_id", "logit > rank"]}
    pairs |= {"attention": ["head < query"], "hidden_states": ["layer < role", "position = role"]}
    leaves.append(st.sampled_from(["true", "false", "null", "1 = 1", *pairs.get(relation, [])]))
    return st.recursive(
        st.one_of(leaves),
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda three: f"({' '.join(three)})"),
            inner.map(lambda one: f"(not {one})"),
            inner.map(lambda one: f"(case when {one} then true else null end)"),
        ),
        max_leaves=6,
    )


@st.composite
def asked_in_sql(draw):
    relation = draw(st.sampled_from(list(KEYS)))
    columns = draw(
        st.lists(
            st.sampled_from([*keys_of(relation), *COLUMNS[relation], "1 as one"]), min_size=1, max_size=4, unique=True
        )
    )
    condition = draw(sql_conditions(relation))
    limit = draw(st.sampled_from([None, None, 0, 3]))
    return relation, columns, condition, limit


def outcome(run, query):
    """Rows, or the first words of the error."""
    try:
        return sorted(map(repr, run(query)))
    except (duckdb.Error, VlmlakeError) as error:
        return str(error).removeprefix("SQL: ").split(":")[0]


@settings(max_examples=120, deadline=None, derandomize=True)
@given(asked=asked_in_sql())
def test_any_condition_in_sql_has_the_rows_of_tables_in_memory(session, connection, plain, asked):
    relation, columns, condition, limit = asked
    query = f"select {', '.join(columns)} from {relation} where {condition}"
    expected = outcome(lambda one: plain.execute(one).fetchall(), query)

    def rows(one):
        return list(zip(*(column.to_pylist() for column in session.ask(one).table.columns), strict=True))

    if limit is None:
        assert outcome(rows, query) == expected
        assert outcome(lambda one: connection.execute(one).fetchall(), query) == expected
    elif isinstance(expected, list):
        found = outcome(rows, f"{query} limit {limit}")
        assert len(found) == min(limit, len(expected))
        assert set(found) <= set(expected)


def polars_conditions(relation):
    """Conditions in Polars over the columns of a relation."""
    leaves = []
    for name in keys_of(relation):
        column = pl.col(name)
        if name in TEXT:
            value = st.sampled_from(TEXT[name])
            leaves += [
                value.map(column.eq),
                value.map(column.ne),
                value.map(column.eq_missing),
                value.map(column.ne_missing),
                value.map(column.gt),
                st.lists(st.one_of(value, st.none()), max_size=3).map(column.is_in),
                st.lists(st.one_of(value, st.none()), max_size=3).map(lambda v, c=column: c.is_in(v, nulls_equal=True)),
                st.tuples(value, value).map(lambda two, c=column: c.is_between(*map(pl.lit, two))),
                st.sampled_from([column.is_null(), column.is_not_null(), column == pl.lit(None, pl.String)]),
                st.sampled_from([column.str.starts_with("b"), column.str.len_chars() > 7, column.str.contains("a.*0")]),
                st.sampled_from([column.str.to_uppercase() == "IMAGE", column.fill_null("none") == "none"]),
            ]
        else:
            value = st.integers(-1, NUMBERS[name])
            leaves += [
                value.map(column.eq),
                value.map(column.ge),
                value.map(column.ne),
                st.lists(value, max_size=4).map(column.is_in),
                st.tuples(value, value).map(lambda two, c=column: c.is_between(*two)),
                value.map(lambda n, c=column: c * 2 + 1 > n),
                value.map(lambda n, c=column: c % 3 == n % 3),
                value.map(lambda n, c=column: c.cast(pl.String) == str(n)),
                value.map(lambda n, c=column: c.cast(pl.Float64) / 2 < n),
                st.sampled_from([column == column.max(), column > column.mean(), column.is_first_distinct()]),
            ]
    for name in COLUMNS[relation]:
        column = pl.col(name)
        if name in LISTS:
            leaves.append(st.floats(-2, 2).map(lambda x, c=column: c.cast(pl.List(pl.Float32)).list.sum() > x))
        elif name in VALUES:
            leaves.append(st.sampled_from([column > VALUES[name][0], column.is_null(), column.is_in(VALUES[name])]))
    leaves.append(st.sampled_from([pl.lit(True), pl.lit(False), pl.lit(None, pl.Boolean), pl.len() > 3]))
    return st.recursive(
        st.one_of(leaves),
        lambda inner: st.one_of(
            st.lists(inner, min_size=2, max_size=3).map(lambda several: reduce(and_, several)),
            st.lists(inner, min_size=2, max_size=3).map(lambda several: reduce(or_, several)),
            inner.map(lambda one: ~one),
            inner.map(lambda one: pl.any_horizontal(one, pl.lit(None, pl.Boolean))),
        ),
        max_leaves=6,
    )


@st.composite
def asked_in_polars(draw):
    relation = draw(st.sampled_from(list(KEYS)))
    columns = st.lists(st.sampled_from([*keys_of(relation), *COLUMNS[relation]]), min_size=1, max_size=4, unique=True)
    steps = st.one_of(
        st.tuples(st.just("filter"), polars_conditions(relation)),
        st.tuples(st.just("head"), st.integers(0, 60)),
        st.tuples(st.just("slice"), st.tuples(st.integers(-5, 20), st.integers(0, 30))),
        st.tuples(st.just("tail"), st.integers(0, 9)),
        st.tuples(st.just("rows"), st.none()),
    )
    return relation, draw(st.lists(steps, min_size=1, max_size=4)), draw(st.none() | columns)


def applied(frame, steps, columns):
    for kind, given_ in steps:
        match kind:
            case "filter":
                frame = frame.filter(given_)
            case "slice":
                frame = frame.slice(*given_)
            case "rows":
                frame = frame.with_row_index("number").filter(pl.col("number") % 2 == 0).drop("number")
            case _:
                frame = getattr(frame, kind)(given_)
    return frame.collect() if columns is None else frame.select(columns).collect()


@settings(max_examples=80, deadline=None, derandomize=True)
@given(asked=asked_in_polars())
def test_any_steps_in_polars_have_the_rows_of_frames_in_memory(runs, frames, asked):
    relation, steps, columns = asked
    expected = applied(frames[relation].lazy(), steps, columns)
    found = applied(scan(runs, relation), steps, columns)
    assert found.schema == expected.schema
    assert found.equals(expected)


def test_the_first_rows_are_taken_before_a_condition_on_them(runs, frames):
    for relation, frame in frames.items():
        key, value = KEYS[relation][-1], frame[KEYS[relation][-1]][1]
        expected = frame.head(3).filter(pl.col(key) == value)
        assert scan(runs, relation).head(3).filter(pl.col(key) == value).collect().equals(expected)
        assert scan(runs, relation).head(3).filter(pl.col(key) == value).head(1).collect().equals(expected.head(1))
