"""Subqueries and joins asked ahead: the answer stays, whatever the statement; what could change it is left alone."""

from __future__ import annotations

import random
from collections import Counter

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.queries.lakes import EVERY_ARRAY, Plan, make_lake
from vlmlake.errors import VlmlakeError
from vlmlake.queries import Catalog, Meter, Session, narrowed


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    arrays = [name for name in EVERY_ARRAY if name != "logits"]
    plans = Plan("a", arrays=arrays, committed=(0, 1)), Plan("b", shared=False, hidden=6, layers=("embed", "block_0"))
    return Catalog.at(make_lake(str(tmp_path_factory.mktemp("lake") / "lake"), *plans).url)


@pytest.fixture(scope="module")
def plain(catalog):
    """A connection to tables that hold what the relations do: nothing of vlmlake answers there."""
    told = duckdb.connect()
    with catalog.connect(Meter(None)) as connection:
        for name in ("hidden_states", "readout_states", "tokens", "examples", "answers", "runs"):
            there = connection.sql(f"select * from {name}").to_arrow_table()
            told.register("there", there)
            told.execute(f"create table {name} as select * from there")
    yield told
    told.close()


@pytest.fixture(scope="module")
def shared(catalog):
    with catalog.connect(Meter(None)) as connection:
        yield connection


@pytest.fixture(scope="module")
def session(catalog):
    with Session.of(catalog) as session:
        yield session


def answer(connection, query, parameters=None):
    """Rows without order, and the names of their columns; the kind of error where there is one."""
    try:
        found = connection.execute(query, parameters)
        return Counter(map(repr, found.fetchall())), [column[0] for column in found.description]
    except duckdb.Error as error:
        return type(error), None


def asked(session, query, parameters=None):
    try:
        told = session.ask(query, parameters).table
    except VlmlakeError as error:
        return type(error.__cause__), None
    rows = zip(*(column.to_pylist() for column in told.columns), strict=True)
    return Counter(map(repr, rows)), told.column_names


FIRST = "0.0/ä''a"
NARROWED = {
    "in": "select count(*) from hidden_states where example in (select example from examples where split = 'odd')",
    "not in": "select count(*) from tokens where example not in (select example from examples where split = 'odd')",
    "not in with null": "select count(*) from tokens where position not in "
    "(select nullif(answer, 'word') from answers)",
    "in with null": "select count(*) from tokens where role in (select split from examples union select 'image')",
    "in a null": "select count(*) from tokens where (position in (select 'answer_0' union select null)) is null",
    "in nothing": "select count(*) from tokens where example in (select example from examples where split = 'no')",
    "in nothing, or": "select count(*) from tokens where token in (select 5 where false) or role = 'image'",
    "not in nothing": "select count(*) from tokens where position not in (select split from examples where false)",
    "nothing is null": "select count(*) from tokens where (position in "
    "(select split from examples where false)) is null",
    "a column called as a key": "with t as (select token - 1 as token from tokens) select * from t "
    "where token in (select 5 where false)",
    "an empty column called as a key": "with t as (select '' as position from tokens) select * from t "
    "where position in (select answer from answers where false)",
    "case": "select case example in (select example from examples where split = 'odd') when true then 1 when false "
    "then 2 end as x, count(*) as n from tokens group by all",
    "or": "select count(*) from tokens where token in (select row from examples) or role = 'image'",
    "integers": "select count(*) from tokens where token in (select prefix_tokens - 1 from examples)",
    "nested": "select count(*) from hidden_states where example in (select example from examples where row in "
    "(select min(row) from examples group by run))",
    "cte": "with few as (select example from examples where row < 3), fewer as (select example from few) "
    "select count(*) from hidden_states where example in (select example from fewer)",
    "cte in capitals": "with Few as (select example from examples where row < 3) "
    "select count(*) from hidden_states where example in (select EXAMPLE from FEW)",
    "values": f"select count(*) from tokens where example in (values ('{FIRST}'), ('no'))",
    "union": "select count(*) from tokens where example in ((select example from examples where row = 0) union all "
    "(select 'x'))",
    "own with": "select count(*) from tokens where example in (with a as (select 1) select example "
    "from examples where row = 0)",
    "from first": "from tokens select count(*) where example in (from examples select example where row = 0);",
    "non-ascii": "select 'ä🙂' as \"sché ma\" from tokens where 'é' = 'é' and example in "
    "(select example from examples where example like '%ä''a') -- it's \"ü\"; done\n;",
    "comments": "select count(*) from tokens /* '( */ where example in /* ) */ (select -- )\n example "
    "from examples where row = 0)",
    "join": "select h.token, vector from hidden_states h join examples e using (run, example) where e.row = 1",
    "window as far as the example": "with one as (select *, row_number() over (partition by run order by row, example) "
    "as n from examples) select count(*) from tokens join one using (run, example) where n <= 2",
    "limit as far as the example": "select count(*) from tokens join (select * from examples order by run, row desc, "
    "example limit 2) using (run, example)",
    "pairs": "select count(*) from tokens where (run, example) in (select run, example from examples where row = 1)",
    "pairs the other way": "select count(*) from tokens t where (t.example, t.run) in "
    "(select example, run from examples where row > 1) and t.role = 'question'",
    "pairs of nobody": "select count(*) from tokens where (run, example) in "
    "(select run, example from examples where row < 0)",
    "pairs and null": "select count(*) from tokens where (run, example) in "
    "(select run, case when row > 1 then example end from examples)",
    "join of runs": "select run, count(*) from tokens join runs using (run) where model = 'a' group by all",
    "join of runs and examples": "select run, count(*) from hidden_states join examples using (run, example) join runs "
    "using (run) where model = 'b' and split = 'odd' group by all",
    "join of runs first": "select count(*) from runs join examples using (run) join tokens using (run, example) "
    "where model = 'b' and examples.row > 0",
    "join the other way": "select count(*) from examples join tokens using (run, example) where split = 'odd'",
    "join in capitals": "SELECT COUNT(*) FROM TOKENS JOIN EXAMPLES USING (RUN, EXAMPLE) WHERE EXAMPLES.ROW = 1",
    "join of three": "select count(*) from hidden_states h join tokens t using (run, example, token) join examples e "
    "using (run, example) where e.split = 'odd' and h.layer = 'embed' and t.id > 3",
    "join with a subquery": "select count(*) from tokens join (select run, example from examples where row < 2) "
    "using (run, example)",
    "join nothing": "select count(*) from tokens join examples using (run, example) where row < 0",
    "join and left join": "select count(*) from tokens join (examples left join answers using (run, example)) "
    "using (run, example) where answer = 'word' and row = 1",
    "quoted": 'select count("a ""b".vector) from hidden_states as "a ""b" join examples using (example) where row = 1',
    "two joins": "select (select count(*) from tokens join examples using (run, example) where row = 1) as a, "
    "(select count(*) from tokens join examples using (run, example) where row = 2) as b",
    "set operation": "select example from tokens join examples using (run, example) where row = 1 except "
    "select example from tokens where example in (select example from examples where split = 'odd')",
    "window": "select example, row_number() over (partition by example order by token) as n from tokens "
    "where example in (select example from examples where row = 1)",
    "having": "select example, count(*) from tokens group by example having example in "
    "(select example from examples where row = 1)",
    "macro": "select count(*) from readout_states where layer_number(layer) >= 0 and example in "
    "(select example from examples where layer_number('block_1') = row)",
    "exists": "select count(*) from tokens join examples e using (run, example) where exists "
    "(select 1 from examples a where a.example = e.example and a.run = e.run and a.row = 1)",
    "limit": "select count(*) from tokens where example in "
    "(select example from examples order by row, example limit 2)",
}
LEFT_ALONE = {
    "a table hidden": f"with examples as (select '{FIRST}' as example) select count(*) from tokens where example in "
    "(select example from examples)",
    "a table hidden by capitals": f"with Examples as (select '{FIRST}' as example) select count(*) from tokens "
    "where example in (select example from examples)",
    "a table hidden later": "with a as (select * from tokens where example in (select example from examples)), "
    f"examples as (select '{FIRST}' as example) select count(*) from a",
    "a table hidden by itself": "with examples as (select * from examples where row = 1) select count(*) from "
    "(with examples as (select * from examples where split = 'odd') select * from tokens join examples using (run, "
    "example))",
    "a relation hidden": f"with tokens as (select '{FIRST}' as example, 1 as token) select count(*) from tokens "
    "join examples using (example)",
    "recursion": "with recursive r as (select 0 as token union all select token + 1 from r where token < 3) "
    "select count(*) from tokens where token in (select token from r)",
    "correlated": "select count(*) from tokens t where example in (select example from examples e where e.run = t.run "
    "and e.prefix_tokens = t.token)",
    "correlated without a name": "select count(*) from tokens where example in (select example from examples "
    "where prefix_tokens = token)",
    "any": "select count(*) from tokens where example = any (select example from examples where row = 1)",
    "all": "select count(*) from tokens where example <> all (select example from examples where row = 1)",
    "no pairs": "select count(*) from tokens where (run, example) not in "
    "(select run, example from examples where row = 1)",
    "pairs of others": "select count(*) from tokens where (run, token) in (select run, row::integer from examples)",
    "arrays": "select count(*) from tokens where example in (select example from readout_states)",
    "arrays in capitals": "select count(*) from tokens where example in (select example from READOUT_STATES)",
    "left": "select count(*), count(role) from examples left join tokens using (run, example) where row = 1",
    "right": "select count(*) from examples right join tokens using (run, example)",
    "full": "select count(*) from tokens full join (select run, example from examples where row = 1) "
    "using (run, example)",
    "anti": "select count(*) from tokens anti join (select run, example from examples where row = 1) "
    "using (run, example)",
    "on": "select count(*) from tokens t join examples e on t.run = e.run and t.example = e.example where row = 1",
    "natural": "select count(*) from tokens natural join (select run, example from examples where row = 1)",
    "join and left join of tokens": "select count(*) from (examples left join tokens using (run, example)) join "
    "answers using (run, example)",
    "a database named": "select count(temp.tokens.token) from tokens join examples using (run, example) where row = 1",
    "columns named": "select count(*) from tokens t(run, example) join examples using (run, example) where row = 1",
    "another type": "select count(*) from tokens where token in (select '03')",
    "text of another order": f"select count(*) from tokens where example in (select upper('{FIRST}') collate nocase)",
    "a join of another order": "select count(*) from tokens join (select upper(example) collate nocase as example "
    "from examples) using (example)",
    "names of columns": "select example in (select example from examples where row = 1) from tokens",
    "an error": "select count(*) from tokens join examples using (run, example) where cast(question as integer) = 1",
    "no table": "select count(*) from tokens where example in (select example from nothing)",
    "two columns": "select count(*) from tokens where example in (select run, example from examples)",
    "no relation": "select count(*) from examples where example in (select example from answers)",
}
CHANGING = {
    "random": "select count(*) from tokens where example in (select example from examples where random() < 0.5)",
    "random in a join": "select count(*) from tokens join (select * from examples where random() < 0.5) "
    "using (run, example)",
    "sample": "select count(*) from tokens where example in (select example from examples using sample 3 rows)",
    "sample of a relation": "select count(*) from tokens tablesample 3 rows join examples using (run, example)",
    "sample of a table": "select count(*) from tokens join examples tablesample 3 rows using (run, example)",
    "limit in a join": "select count(*) from tokens join (select * from examples limit 1) using (run, example)",
    "limit by a part of the key": "select count(*) from tokens join (select * from examples order by row limit 1) "
    "using (run, example)",
    "window by a part of the key": "select count(*) from tokens join (select *, row_number() over (order by example) "
    "as n from examples) using (run, example) where n = 1",
    "window in a join": "select count(*) from tokens join (select *, row_number() over () as n from examples) "
    "using (run, example) where n = 1",
    "any value in a cte": "with one as (select any_value(example) as example from examples) select count(*) "
    "from tokens "
    "join one using (example) where example in (select example from one)",
    "query": "select count(*) from tokens where example in (select example from query('from readout_states'))",
    "the time": "select count(*) from tokens where example in (select example from examples where now() is not null)",
}


@pytest.mark.parametrize("name", NARROWED)
def test_what_a_subquery_or_a_join_chooses_becomes_constants_and_the_answer_stays(session, plain, name):
    query = NARROWED[name]
    expected = answer(plain, query.replace("layer_number('block_1')", "1").replace("layer_number(layer)", "1"))
    if name == "macro":
        expected = answer(session.connection, query)
    assert isinstance(expected[0], Counter), expected
    assert answer(session.connection, query) == expected
    if name != "join and left join":
        assert narrowed(session.connection, query) != query
    assert answer(session.connection, narrowed(session.connection, query)) == expected
    assert asked(session, query) == expected


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_could_mean_something_else_is_left_as_it_is(session, plain, name):
    query = LEFT_ALONE[name]
    expected = answer(plain, query.replace("temp.tokens.", "tokens."))
    assert narrowed(session.connection, query) == query
    assert answer(session.connection, query)[0] == expected[0]
    assert asked(session, query)[0] == expected[0]


@pytest.mark.parametrize("name", CHANGING)
def test_what_may_give_other_rows_the_second_time_is_left_as_it_is(session, name):
    assert narrowed(session.connection, CHANGING[name]) == CHANGING[name]


def test_what_a_user_made_is_not_asked_ahead_but_for_tables(catalog):
    connection = catalog.connect(Meter(None))
    connection.execute("create temp view mine as select example from readout_states")
    connection.execute("create temp macro often() as random() < 0.5")
    connection.execute("create temp table loose (example varchar collate nocase)")
    connection.execute("insert into loose select upper(example) from examples where row = 1")
    connection.execute("create temp table few as select example from examples where row = 1")
    for query in (
        "select count(*) from tokens where example in (select example from mine)",
        "select count(*) from tokens where example in (select example from examples where often())",
        "select count(*) from tokens where example in (select example from loose)",
        "select count(*) from tokens join loose using (example)",
    ):
        assert narrowed(connection, query) == query
    query = "select count(*) from tokens where example in (select example from few)"
    assert "'0.1/ä''a'" in narrowed(connection, query)
    connection.close()


def test_parameters_are_those_of_the_statement(session, plain):
    query = (
        "select count(*) from tokens where example in (select example from examples where row = $row) and token < $n"
    )
    join = "select count(*) from tokens join examples using (run, example) where row = $row and token < $n"
    for told in (query, join):
        given = {"row": 1, "n": 5}
        assert "$row" not in narrowed(session.connection, query, given)
        assert asked(session, told, given) == answer(plain, told, given)
        with pytest.raises(VlmlakeError, match=r"SQL: .*n"):
            session.ask(told, {"row": 1})


def test_several_statements_and_other_statements_come_back_as_they_are(session):
    for query in (
        "select 1; select count(*) from tokens where example in (select example from examples)",
        "create table t as select * from tokens where example in (select example from examples)",
        "select count(*) from tokens where example in (select",
        "",
    ):
        assert narrowed(session.connection, query) == query


CHOOSERS = st.sampled_from(
    [
        "select example from examples where split = 'odd'",
        "select example from examples where split is null",
        "select example from examples join answers using (run, example) where row % 2 = 0 and answer_tokens > 0",
        "select example from few",
        "select null",
        "select example from examples union all select null",
        "select example from examples where false",
        "select max(example) from examples group by run",
        "select e2.example from examples e2 where e2.suffix_tokens > 9",
        "select example from examples where run = o.run and split = 'odd'",
        "select example from tokens where role = 'answer'",
        "select example from examples where example in (select example from answers) and row < 4",
    ]
)
CONDITIONS = st.recursive(
    st.one_of(
        CHOOSERS.map("o.example in ({})".format),
        CHOOSERS.map("o.example not in ({})".format),
        st.sampled_from(
            [
                "o.token in (select row from examples)",
                "o.position in (select 'answer_0' union select null)",
                "o.position is null",
                "o.role <> 'image'",
                "o.run in (select run from examples where prefix_tokens > 18)",
                "e.split = 'odd'",
                "split is null",
                "e.row in (1, 4)",
                "e.prefix_tokens > o.token",
                "'\u00e9)' <> '(' /* ' */",
                "exists (select 1 from answers a where a.example = e.example and a.answer_tokens > 1)",
            ]
        ),
    ),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: f"({two[0]} and {two[1]})"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]} or {two[1]})"),
        inner.map(lambda one: f"(not {one})"),
        inner.map(lambda one: f"coalesce({one}, true)"),
    ),
    max_leaves=5,
)
JOINS = st.sampled_from(
    [
        "{r} o {kind} join examples e using (run, example)",
        "examples e {kind} join {r} o using (run, example)",
        "{r} o {kind} join examples e on o.run = e.run and o.example = e.example",
        "({r} o join answers a using (run, example)) {kind} join examples e using (run, example)",
        "{r} o {kind} join (select * from examples where row < 5) e using (run, example)",
        "(few join examples e using (example)) {kind} join {r} o using (run, example)",
        "{r} o {kind} join (examples e left join few using (example)) using (example)",
    ]
)


@settings(max_examples=70, deadline=None, derandomize=True)
@given(
    join=JOINS,
    kind=st.sampled_from(["", "inner", "left", "right", "full"]),
    relation=st.sampled_from(["tokens", "TOKENS", "hidden_states"]),
    condition=CONDITIONS,
    last=st.sampled_from(["", ";", " -- '", " order by 1, 2"]),
    union=st.booleans(),
)
def test_any_join_under_any_condition_has_the_answer_of_tables_in_memory(
    shared, plain, join, kind, relation, condition, last, union
):
    columns = "o.example as x, o.token as y, e.split as z, row_number() over (partition by o.example order by o.token)"
    query = f"select {columns} from {join.format(r=relation, kind=kind)} where {condition}"
    more = " union all select example, token, role, 0 from tokens o where o.example in (select example from few)"
    query = f"with Few as (select example from examples where row in (1, 3)) {query}{more if union else ''}{last}"
    expected = answer(plain, query)
    assert answer(shared, query)[0] == expected[0]
    assert answer(shared, narrowed(shared, query))[0] == expected[0]


def test_a_list_of_shuffled_values_is_the_same_list(session):
    query = "select count(*) from tokens join (values {}) as v(example) using (example)"
    names = [f"('0.{row}/ä''a')" for row in range(3)]
    told = set()
    for seed in range(3):
        random.Random(seed).shuffle(names)
        told.add(narrowed(session.connection, query.format(", ".join(names))).split("AS")[0])
    assert len(told) == 1
