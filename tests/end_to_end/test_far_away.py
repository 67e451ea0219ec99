"""Lakes that lie elsewhere: in an object store, behind a plain web server, read by a cluster of processes."""

from __future__ import annotations

import functools
import http.server
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from dask.distributed import Client, LocalCluster

from tests.servers import FileServer
from vlmlake import open_lake
from vlmlake.analysis.analyze import analyze
from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets.shapes import write_benchmark
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.extract import extract
from vlmlake.ingest.job import Job
from vlmlake.ingest.model_source import ModelSource
from vlmlake.queries import sql
from vlmlake.store_schema import paths


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_benchmark(folder, images=24, seed=4)
    return folder


def job_at(url: str, model: Path, scenes: Path, options: dict[str, str] | None = None) -> Job:
    decoding = Decoding(answer_tokens=2, samples=2)
    return Job(
        ModelSource(str(model)), (f"pope:{scenes}",), url, decoding=decoding, batch_size=16, storage_options=options
    )


@pytest.fixture(scope="module")
def near(tiny_llava, scenes, tmp_path_factory) -> str:
    url = str(tmp_path_factory.mktemp("near") / "lake")
    extract(job_at(url, tiny_llava, scenes))
    analyze(url)
    return url


@pytest.fixture(scope="module")
def in_s3(s3, tiny_llava, scenes) -> str:
    url = s3.bucket("far-away") + "/some/lake"
    extract(job_at(url, tiny_llava, scenes, s3.options))
    analyze(url, storage_options=s3.options)
    return url


@pytest.fixture
def web(near) -> Iterator[FileServer]:
    with FileServer(near) as server:
        yield server


def unplaced(data: xr.Dataset) -> xr.Dataset:
    return data.compute().drop_attrs(deep=False)


def test_an_object_store_holds_the_same_lake(s3, in_s3, near):
    far, here = open_lake(in_s3, s3.options), open_lake(near)
    assert far.runs == here.runs
    (run,) = far.runs
    xr.testing.assert_identical(unplaced(far[run]), unplaced(here[run]))
    for table in ("examples", "answers", "samples", "results"):
        assert far.table(table).equals(here.table(table))
    query = "select metric, count(*) as n, max(value) as v from results group by metric order by metric"
    assert sql(in_s3, query, s3.options).equals(sql(near, query))


def test_a_file_url_is_the_folder(near):
    (run,) = open_lake(near).runs
    assert open_lake(f"file://{near}").run(run).examples().equals(open_lake(near).run(run).examples())


def test_a_finished_run_is_read_through_any_web_server_with_ranges(web, near):
    far, here = open_lake(web.url), open_lake(near)
    assert far.runs == here.runs
    (run,) = far.runs
    xr.testing.assert_identical(unplaced(far[run]), unplaced(here[run]))
    assert far.table("results").equals(here.table("results"))
    assert sql(web.url, "select count(*) as n from samples").equals(sql(near, "select count(*) as n from samples"))
    assert {entry.method for entry in web.log} == {"GET"}


def test_a_web_server_that_forbids_what_it_does_not_have_is_read_too(near):
    with FileServer(near, missing=403) as web:
        assert open_lake(web.url).table("skipped").is_empty()
        assert sql(web.url, "select count(*) as n from skipped").to_pydict() == {"n": [0]}


def test_over_the_web_only_the_chunks_that_are_asked_for_travel(web, near):
    far, here = (
        open_lake(url)["tiny-llava"]["readout_states"].sel(layer="block_2", position="prompt_last")
        for url in (web.url, near)
    )
    before = web.bytes_sent
    np.testing.assert_array_equal(far.values, here.values)
    assert web.bytes_sent - before <= 1.2 * far.nbytes / 2


def test_plain_xarray_opens_a_finished_run_over_the_web_with_its_consolidated_metadata(web, near):
    (run,) = open_lake(near).runs
    plain = xr.open_zarr(f"{web.url}/{paths.arrays(run)}", consolidated=True, chunks=None)
    assert set(plain.data_vars) == set(open_lake(near).run(run).record.arrays)
    with pytest.raises((ValueError, KeyError, FileNotFoundError, OSError)):
        xr.open_zarr(f"{web.url}/{paths.arrays(run)}", consolidated=False, chunks=None)["attention"]


def test_over_the_web_an_unfinished_run_is_not_listed_and_nothing_is_written(tiny_llava, scenes, tmp_path):
    job = job_at(str(tmp_path / "lake"), tiny_llava, scenes)
    run = extract(job).run
    (tmp_path / "lake" / paths.batch_list(run)).unlink()
    with FileServer(tmp_path / "lake") as web:
        lake = open_lake(web.url)
        with pytest.raises(VlmlakeError, match=r"is not finished: over the web only finished runs can be read"):
            lake[run]
        with pytest.raises(VlmlakeError, match=r"is a web address: it can be read, .* neither listed nor written to"):
            analyze(web.url)


def test_a_web_server_without_ranges_is_named(near, monkeypatch):
    monkeypatch.setattr("vlmlake.store_schema.retries.WAITS", (0.0,))
    with FileServer(near, ranges=False) as web:
        data = open_lake(web.url)["tiny-llava"]
        with pytest.raises(VlmlakeError, match="does the server know ranges"):
            data["readout_states"].isel(layer=1, position=0).compute()


def test_pythons_own_web_server_lists_folders_and_serves_the_tables(near):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=near)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            lake = open_lake(f"http://127.0.0.1:{server.server_port}")
            assert lake.table("examples").equals(open_lake(near).table("examples"))
        finally:
            server.shutdown()


def test_a_dataset_travels_to_other_processes_without_open_files(in_s3, s3):
    data = open_lake(in_s3, s3.options)["tiny-llava"]
    data["logits"].isel(example=0).load()
    again = pickle.loads(pickle.dumps(data))
    xr.testing.assert_identical(again.compute(), data.compute())


@pytest.mark.slow
def test_two_worker_processes_analyze_a_lake_in_an_object_store(in_s3, s3, near):
    here = open_lake(near).table("results")
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        readers = client.run(lambda: __import__("os").getpid())
        assert len(set(readers.values())) == 2
        data = open_lake(in_s3, s3.options)["tiny-llava"]
        mean = abs(data["hidden_states"]).mean(["example", "token", "hidden"]).compute()
        told = analyze(in_s3, storage_options=s3.options).table
    near_data = open_lake(near)["tiny-llava"]
    np.testing.assert_allclose(mean, abs(near_data["hidden_states"]).mean(["example", "token", "hidden"]), rtol=1e-6)
    keys = ["analysis", "metric", "statistic", "split", "layer", "position", "head", "at"]
    ours, wanted = told.sort(keys)["value"].to_numpy(), here.sort(keys)["value"].to_numpy()
    np.testing.assert_allclose(ours, wanted, rtol=1e-9)
