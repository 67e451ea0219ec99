"""The verbs on a lake's files as a user types them, storage options of every verb, and what an error line may hold."""

from __future__ import annotations

import os
import re

import pytest

from tests.store_schema.test_copying import assert_same, selected
from tests.store_schema.toy_runs import toy_batch, toy_record, toy_run
from vlmlake import open_lake
from vlmlake.analysis.analyze import analyze
from vlmlake.cli_options import device_of, storage_options, worker_of
from vlmlake.errors import VlmlakeError
from vlmlake.queries import sql
from vlmlake.store_schema import retries
from vlmlake.store_schema.arrays import write_batch
from vlmlake.store_schema.copying import copy_run
from vlmlake.store_schema.finish import is_finished
from vlmlake.store_schema.selection import Selection
from vlmlake.store_schema.storage import Storage
from vlmlake.store_schema.workers import Note, Worker, write_note

READOUT = ("readout_states", "logits")


def chosen_examples(lake_url: str) -> tuple[str, ...]:
    """Every third example in the order of the run."""
    return tuple(open_lake(lake_url).run("tiny-llava").examples()["example"].to_list()[::3])


def test_a_selection_of_an_extracted_run_equals_its_source(lake_url, tmp_path):
    source = open_lake(lake_url).run("tiny-llava")
    selection = Selection(None, ("embed", "block_2"), chosen_examples(lake_url))
    copied = copy_run(source, str(tmp_path), selection)
    there = open_lake(str(tmp_path)).run(copied.run)
    for raw in (True, False):
        assert_same(there.dataset(raw=raw), selected(source.dataset(raw=raw), selection))
    assert there.tokens(selection.examples[5]).equals(source.tokens(selection.examples[5]))
    assert copied.examples == 160
    ours, theirs = there.samples().drop("run"), source.samples().drop("run")
    assert ours.sort("example", "sample").equals(
        theirs.filter(theirs["example"].is_in(selection.examples)).sort("example", "sample")
    )


def test_a_copy_of_a_copy_of_an_extracted_run_equals_its_source(lake_url, tmp_path):
    source = open_lake(lake_url).run("tiny-llava")
    first = copy_run(source, str(tmp_path / "a"), Selection(READOUT))
    one = open_lake(str(tmp_path / "a")).run(first.run)
    second = copy_run(one, str(tmp_path / "b"), Selection(layers=("block_3",), examples=chosen_examples(lake_url)))
    two = open_lake(str(tmp_path / "b")).run(second.run)
    wanted = selected(source.dataset(raw=True), Selection(READOUT, ("block_3",), chosen_examples(lake_url)))
    assert_same(two.dataset(raw=True), wanted)


def test_all_of_an_extracted_run_and_its_analyses_are_the_same(lake_url, tmp_path):
    source = open_lake(lake_url).run("tiny-llava")
    copy_run(source, str(tmp_path))
    names = list(source.storage.files("runs"))
    target = Storage.at(str(tmp_path))
    assert list(target.files("runs")) == names
    assert all(target.read(path) == source.storage.read(path) for path in names)
    found = analyze(str(tmp_path), ("labels",)).table
    before = open_lake(lake_url).table("results")
    assert found["value"].to_list() == before.filter(before["analysis"] == "labels")["value"].to_list()


def test_analyses_that_need_what_was_selected_work(run_cli, lake_url, tmp_path):
    target = str(tmp_path)
    code, out, err = run_cli(
        "copy", lake_url, target, "--array", "readout_states", "--layer", "block_1", "--layer", "block_3",
        "--where", "split <> 'random'",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert re.search(r"tiny-llava-\w{8}: 320 examples in 10 batches at .*, 10 copied now, .* read, .* finished", out)
    assert set(sql(target, "select distinct split from examples")["split"].to_pylist()) == {"popular", "adversarial"}
    code, out, _ = run_cli("analyze", target, "labels", "probes")
    assert code == 0
    results = sql(target, "select distinct layer from results where metric = 'probe'")["layer"].to_pylist()
    assert sorted(results) == ["block_1", "block_3"]
    code, out, _ = run_cli("info", target)
    assert "320 of 320 examples in 10 of 10 batches" in out
    again = run_cli("copy", lake_url, target, "--array", "readout_states", "--layer", "block_3", "--layer", "block_1",
                    "--where", "split in ('popular', 'adversarial')")  # fmt: skip
    assert "nothing to do" in again[1]
    assert len(open_lake(target).runs) == 1


def test_copy_says_what_is_wrong(refused, lake_url, tmp_path):
    target = str(tmp_path / "target")
    assert "has no layer block_99: there are embed, block_0" in refused("copy", lake_url, target, "--layer", "block_99")
    assert "has no array heads: there are" in refused("copy", lake_url, target, "--array", "heads")
    assert "has no example nobody: there are" in refused("copy", lake_url, target, "--example", "nobody")
    assert "no example of run" in refused("copy", lake_url, target, "--where", "false")
    assert "SQL: " in refused("copy", lake_url, target, "--where", "colour = 'red'")
    assert "expected one of them" in refused("copy", lake_url, target, "--where", "true", "--example", "a")
    assert "no single run named other" in refused("copy", lake_url, target, "--run", "other")
    assert "no lake at" in refused("copy", str(tmp_path / "nowhere"), target)
    assert not os.path.exists(target)


def test_status_tells_how_far_a_run_is(run_cli, lake_url, tmp_path):
    code, out, _ = run_cli("status", lake_url)
    assert code == 0
    assert re.fullmatch(r"tiny-llava-\w{8}: finished, 10 of 10 batches committed, 480 examples, [\d.]+ MB\n", out)
    run = toy_run(str(tmp_path), numbers=(0,))
    write_batch(run.storage, run.record, 2, toy_batch(run.record, 2))
    write_note(run.storage, run.name, Note(Worker(0, 2), 2, 1, 5000))
    code, out, _ = run_cli("status", str(tmp_path), "--run", "toy")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith(f"{run.name}: not finished, 1 of 3 batches committed, 5 examples, ")
    assert lines[1:3] == ["  being written: 1 (2)", "  missing: 1 (1)"]
    assert lines[3].startswith(
        "  worker 0/2: 1 of its 2 batches committed, 1 of them in its last pass (5.0 kB); writes "
    )


def test_finish_says_what_it_did_or_why_not(run_cli, refused, tmp_path):
    run = toy_run(str(tmp_path / "whole"))
    run.storage.delete(f"runs/{run.name}/batches.parquet")
    assert run_cli("finish", str(tmp_path / "whole")) == (0, f"{run.name}: finished, 3 batches\n", "")
    assert is_finished(run.storage, run.name)
    assert run_cli("finish", str(tmp_path / "whole"), "--run", "toy")[1].endswith("was finished before, 3 batches\n")
    part = toy_run(str(tmp_path / "part"), numbers=(0, 2))
    assert f"run {part.name} of " in (line := refused("finish", str(tmp_path / "part")))
    assert "has 2 of 3 batches" in line


def test_gc_lists_then_removes(run_cli, tmp_path):
    run = toy_run(str(tmp_path), numbers=(0,))
    write_batch(run.storage, toy_record(), 1, toy_batch(toy_record(), 1))
    run.storage.write("mine.txt", b"1")
    before = run.storage.files("")
    code, out, _ = run_cli("gc", str(tmp_path))
    assert code == 0
    assert "young: stays" in out
    assert "not of vlmlake: stays" in out
    assert out.endswith("0 left over, 0 B\n")
    assert "--delete removes them" in run_cli("gc", str(tmp_path), "--older-than", "0")[1]
    assert run.storage.files("") == before
    code, out, _ = run_cli("gc", str(tmp_path), "--delete", "--older-than", "0")
    shards = len(run.record.batch_specs)
    assert len(re.findall(r"^ *shard .* removed *$", out, re.MULTILINE)) == shards
    assert f"{shards} removed, " in out
    assert len(run.storage.files("")) == len(before) - shards
    assert run_cli("status", str(tmp_path))[1].splitlines()[1] == "  missing: 2 (1, 2)"


VERBS = {
    "info": (),
    "status": (),
    "finish": (),
    "gc": (),
    "analyze": ("labels",),
    "sql": ("select count(*) from examples",),
    "copy": ("{target}",),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_storage_options(run_cli, refused, lake_url, tmp_path, monkeypatch, verb):
    given = []
    opened = Storage.at.__func__

    def watched(cls, url, options=None):
        given.append((url, dict(options or {})))
        return opened(cls, url, options)

    monkeypatch.setattr(Storage, "at", classmethod(watched))
    lake = str(tmp_path / "lake")
    copy_run(open_lake(lake_url).run("tiny-llava"), lake, Selection(READOUT, ("block_1",)))
    given.clear()
    rest = [text.format(target=tmp_path / "target") for text in VERBS[verb]]
    assert run_cli(verb, lake, *rest, "--storage-option", "auto_mkdir=true")[0] == 0
    assert given
    assert all(options == {"auto_mkdir": True} for _, options in given), given
    assert "credentials come from the environment" in refused(verb, lake, *rest, "--storage-option", "secret=hush")


def test_a_copys_target_may_have_its_own(run_cli, tmp_path, monkeypatch):
    given = {}
    opened = Storage.at.__func__

    def watched(cls, url, options=None):
        given[url] = dict(options or {})
        return opened(cls, url, options)

    source, target = str(tmp_path / "a"), str(tmp_path / "b")
    toy_run(source)
    monkeypatch.setattr(Storage, "at", classmethod(watched))
    assert run_cli("copy", source, target, "--target-option", "auto_mkdir=true")[0] == 0
    assert (given[source], given[target]) == ({}, {"auto_mkdir": True})


def test_storage_options_are_json_or_text():
    given = [
        "endpoint_url=http://localhost:9000",
        "anon=true",
        "retries=3",
        'client_kwargs={"region_name": "eu"}',
        "a=b=c",
    ]
    assert storage_options(given) == {
        "endpoint_url": "http://localhost:9000",
        "anon": True,
        "retries": 3,
        "client_kwargs": {"region_name": "eu"},
        "a": "b=c",
    }
    assert storage_options(None) == {}
    assert storage_options(["token=anon"]) == {"token": "anon"}


@pytest.mark.parametrize(
    "text",
    [
        "key=hush",
        "secret=hush",
        "token=hush",
        "password=hush",
        "account_key=hush",
        "sas_token=hush",
        "credential=hush",
        "connection_string=hush",
        "AWS_SECRET_ACCESS_KEY=hush",
        "aws-session-token=hush",
        'client_kwargs={"aws_secret_access_key": "hush"}',
        'a=[{"password": "hush"}]',
        "endpoint_url=http://me:hush@host:9000",
    ],
)
def test_credentials_are_refused_and_not_repeated(text):
    with pytest.raises(VlmlakeError, match=r"credentials come from the environment alone \(AWS_ACCESS_KEY_ID") as error:
        storage_options([text])
    assert "hush" not in str(error.value)


@pytest.mark.parametrize("text", ["hush", "=hush", ""])
def test_what_is_no_option_is_refused(text):
    with pytest.raises(VlmlakeError, match="NAME=VALUE") as error:
        storage_options([text])
    assert "hush" not in str(error.value)


@pytest.fixture
def job_of(run_cli, monkeypatch):
    """The job that `extract` would run."""
    jobs = []
    monkeypatch.setattr("vlmlake.console.extraction.extract_with_progress", lambda console, job: jobs.append(job))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str):
        code, _, err = run_cli("extract", "--model", "m", "--dataset", "shapes:3", "--lake", "l", *arguments)
        assert code == 0, err
        return jobs[-1]

    return run


def test_extract_passes_every_option_to_its_place(job_of):
    job = job_of(
        "--images", "i", "--column", "question=q", "--skip-bad", "--plan", "readout", "--dtype", "float32", "--blank",
        "--no-share-prefix", "--batch-size", "5", "--answer-tokens", "6", "--samples", "7", "--temperature", "0.5",
        "--top-p", "0.8", "--seed", "9", "--worker", "2/4", "--storage-option", "anon=true",
    )  # fmt: skip
    assert (job.datasets, job.lake, job.images, dict(job.columns)) == (("shapes:3",), "l", "i", {"question": "q"})
    assert (job.skip_bad, job.share_prefix, job.batch_size) == (True, False, 5)
    assert (job.plan.name, job.plan.dtype, job.plan.blank) == ("readout", "float32", True)
    told = job.decoding
    assert (told.answer_tokens, told.samples, told.temperature, told.top_p, told.seed) == (6, 7, 0.5, 0.8, 9)
    assert (job.worker, job.storage_options) == (Worker(2, 4), {"anon": True})


def test_a_launcher_says_which_worker_and_device(job_of, monkeypatch):
    assert (job_of().worker, job_of("--device", "cuda").model.device) == (Worker(), "cuda")
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    job = job_of("--device", "cuda")
    assert (job.worker, job.model.device) == (Worker(5, 8), "cuda:1")
    assert job_of("--device", "cuda:3").model.device == "cuda:3"
    assert job_of().model.device == "cpu"
    assert job_of("--worker", "0/2").worker == Worker(0, 2)


def test_workers_and_devices_that_are_none_are_refused(refused):
    assert device_of("cuda", {"SLURM_LOCALID": "2"}) == "cuda:2"
    with pytest.raises(VlmlakeError, match="LOCAL_RANK of the environment is 'x'"):
        device_of("cuda", {"LOCAL_RANK": "x"})
    assert worker_of(None, {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}) == Worker(1, 2)
    for text in ("4/4", "1", "a/b", "-1/2"):
        line = refused("extract", "--model", "m", "--dataset", "shapes:3", "--lake", "l", "--worker", text)
        assert "--worker 0/4" in line


def test_an_error_line_drives_no_terminal(refused, tmp_path):
    line = refused("info", str(tmp_path / "no\x1b[31m\x07\u202elake\nhere"))
    assert line.isprintable()
    assert r"no\x1b[31m\x07\u202elake here" in line


def test_an_error_line_holds_no_credentials(refused, monkeypatch):
    monkeypatch.setattr(retries, "WAITS", ())
    line = refused("info", "http://me:hush@127.0.0.1:9/lake")
    assert "127.0.0.1:9/lake" in line
    assert "hush" not in line
    assert "me:" not in line


def test_errors_of_the_storages_clients_are_one_line(refused, monkeypatch, tmp_path):
    aiohttp = pytest.importorskip("aiohttp")

    def fails(*_):
        raise aiohttp.ClientError("cannot reach\nhttp://me:hush@host/lake?token=hush")

    monkeypatch.setattr("vlmlake.store_schema.lake.open_lake", fails)
    assert refused("info", str(tmp_path)) == "vlmlake: ClientError: cannot reach http://host/lake"


def test_sql_reaches_files_where_that_is_asked_for(run_cli, refused, lake_url, tmp_path):
    (tmp_path / "mine.csv").write_text("split,weight\nrandom,2\n")
    query = f"select weight, count(*) as n from examples join '{tmp_path / 'mine.csv'}' using (split) group by weight"
    assert "SQL: " in refused("sql", lake_url, query)
    assert run_cli("sql", lake_url, query, "--allow-files")[1].split() == ["weight", "n", "2", "160"]


def test_copying_reads_little_beyond_what_it_takes(lake_url, tmp_path):
    """One layer of five: the other layers' chunks are not read."""
    source = open_lake(lake_url).run("tiny-llava")
    everything = copy_run(source, str(tmp_path / "all"), Selection(("hidden_states",)))
    one = copy_run(source, str(tmp_path / "one"), Selection(("hidden_states",), ("block_1",)))
    hidden = source.array_bytes()["hidden_states"]
    assert everything.read - one.read > 0.6 * hidden
