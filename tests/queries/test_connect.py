import duckdb
import pytest

from vlmlake import open_lake
from vlmlake.errors import VlmlakeError
from vlmlake.queries import connect, sql


def test_views_hold_what_the_tables_hold(lake_url):
    lake = open_lake(lake_url)
    with connect(lake_url) as connection:
        for view in ("examples", "answers", "results"):
            found = connection.sql(f"select * from {view}").pl()
            assert found.sort(found.columns[:8]).equals(lake.table(view).sort(found.columns[:8])), view
        run, model, examples, batches, done, dtype = connection.execute("select * from runs").fetchone()
    assert (run, model, examples, batches, done, dtype) == (lake.runs[0], "tiny-llava", 480, 20, 20, "float16")


def test_results_of_every_analysis_are_visible(lake_url):
    found = sql(lake_url, "select analysis, count(*) as n from results group by analysis order by analysis").to_pydict()
    assert found["analysis"] == ["accuracy", "probes", "spatial_entropy"]
    passport = "run, dataset, split, rule, metric, statistic, n, n_items, n_images, base_rate, code"
    gaps = " or ".join(f"{name} is null" for name in passport.split(", "))
    assert sql(lake_url, f"select count(*) as n from results where {gaps}").to_pydict() == {"n": [0]}


def test_tables_join_and_lists_are_lists(lake_url):
    query = """
        select e.split, avg(a.log_probs[1]) as surety, max(len(a.token_ids)) as longest
        from examples e join answers a using (run, example) group by e.split order by e.split
    """
    found = sql(lake_url, query).to_pydict()
    assert found["split"] == ["adversarial", "popular", "random"]
    assert all(value < 0 for value in found["surety"])


@pytest.mark.parametrize(
    "statement",
    [
        "select * from read_csv('/etc/hostname')",
        "copy (select 1) to '/tmp/vlmlake-should-not-be-here.csv'",
        "attach '/tmp/vlmlake-should-not-be-here.db'",
        "set enable_external_access = true",
        "install httpfs",
        "select * from lake_url",
    ],
)
def test_a_query_reaches_the_lake_and_nothing_else(lake_url, statement):
    with pytest.raises(VlmlakeError, match="SQL: "):
        sql(lake_url, statement)


def test_a_lake_without_results_or_runs_has_empty_views(tmp_path):
    (tmp_path / "lake.json").write_text('{"format_version": 1}')
    with connect(str(tmp_path)) as connection:
        for view in ("runs", "examples", "answers", "results"):
            assert connection.execute(f"select count(*) from {view}").fetchone() == (0,)
        assert isinstance(connection, duckdb.DuckDBPyConnection)
