import duckdb
import pytest

from vlmlake import open_lake
from vlmlake.analysis.analyses import ANALYSES
from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets.shapes import write_benchmark
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.extract import extract
from vlmlake.ingest.job import Job
from vlmlake.ingest.model_source import ModelSource
from vlmlake.queries import connect, sql
from vlmlake.store_schema.storage import Storage


def test_views_hold_what_the_tables_hold(lake_url):
    lake = open_lake(lake_url)
    with connect(lake_url) as connection:
        for view in ("examples", "answers", "samples", "skipped", "results", "metrics", "labels", "rankings"):
            found = connection.sql(f"select * from {view}").pl()
            assert found.sort(found.columns[:8]).equals(lake.table(view).sort(found.columns[:8])), view
        run, model, examples, batches, done, dtype = connection.execute("select * from runs").fetchone()
    assert (run, model, examples, batches, done, dtype) == (lake.runs[0], "tiny-llava", 480, 10, 10, "float16")


def test_a_connection_reads_every_file_once(lake_url, monkeypatch):
    asked, read = [], Storage.read
    monkeypatch.setattr(Storage, "read", lambda self, path: asked.append(path) or read(self, path))
    connect(lake_url).close()
    assert any("/batches" in path for path in asked)
    tables_read = [path for path in asked if path.endswith(".parquet")]
    assert len(tables_read) == len(set(tables_read))


def test_samples_join_their_examples_and_batches_hold_them_as_lists(lake_url):
    query = """
        select count(*) as n, count(distinct e.example) as examples, count(*) filter (s.answer = a.answer) as agreeing
        from samples s join examples e using (run, example) join answers a using (run, example)
    """
    found = sql(lake_url, query).to_pylist()[0]
    assert (found["n"], found["examples"]) == (960, 480)
    assert 480 < found["agreeing"] < 960
    query = "select count(*) as rows, sum(len(samples)) as drawn, count(answer) as answers from batches"
    assert sql(lake_url, query).to_pylist() == [{"rows": 480, "drawn": 960, "answers": 480}]


def test_samples_of_one_question_are_the_same_for_every_example_that_asks_it(lake_url):
    query = """
        select max(drawn) as most from (
            select count(distinct (s.token_ids, s.log_probs)) as drawn
            from samples s join examples e using (run, example)
            group by e.image_sha256, e.question, s.sample
        )
    """
    assert sql(lake_url, query).to_pydict() == {"most": [1]}


def test_what_a_pass_left_out_is_a_table(tiny_llava, tmp_path):
    write_benchmark(tmp_path / "scenes", images=3, seed=4)
    (tmp_path / "scenes" / "images" / "scene_000001.png").write_bytes(b"torn")
    source, url = ModelSource(str(tiny_llava)), str(tmp_path / "lake")
    job = Job(source, (f"pope:{tmp_path / 'scenes'}",), url, decoding=Decoding(answer_tokens=1), skip_bad=True)
    outcome = extract(job)
    assert (outcome.examples, outcome.skipped) == (24, 12)
    query = "select image, count(*) as n, count(distinct example) as ids, min(reason) as why from skipped group by all"
    (found,) = sql(url, query).to_pylist()
    assert (found["image"], found["n"], found["ids"]) == ("scene_000001.png", 12, 12)
    assert found["why"] == "in no format that Pillow reads"
    query = "select count(*) as n from skipped join examples using (run, example)"
    assert sql(url, query).to_pydict() == {"n": [0]}
    lake = open_lake(url)
    assert lake.table("skipped").equals(lake.run("tiny-llava").skipped())
    assert set(lake.table("skipped")["run"]) == {outcome.run}


def test_results_of_every_analysis_are_visible(lake_url):
    found = sql(lake_url, "select analysis, count(*) as n from results group by analysis order by analysis").to_pydict()
    assert found["analysis"] == sorted(ANALYSES)
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
    (tmp_path / "lake.json").write_text('{"format_version": 4}')
    with connect(str(tmp_path)) as connection:
        for view in ("runs", "examples", "answers", "samples", "skipped", "batches", "results"):
            assert connection.execute(f"select count(*) from {view}").fetchone() == (0,)
        assert isinstance(connection, duckdb.DuckDBPyConnection)


def test_findings_that_a_statement_does_not_name_are_not_read(lake_copy):
    url = str(lake_copy)
    rows = sql(url, "select count(*) as n from metrics")["n"][0].as_py()
    assert rows > 480
    assert sql(url, "from query('select count(*) as n from met' || 'rics')")["n"][0].as_py() == rows
    assert {"metrics", "results"} <= set(sql(url, "show tables")["name"].to_pylist())
    for path in lake_copy.glob("metrics/*/*/*.parquet"):
        path.write_bytes(b"nothing")
    assert sql(url, "select count(*) as n from examples")["n"][0].as_py() == 480
    with pytest.raises(VlmlakeError, match="is damaged"):
        sql(url, "select count(*) from METRICS")
