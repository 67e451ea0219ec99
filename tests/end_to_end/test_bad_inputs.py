"""Bad inputs by name, over the whole command line: one line that names each, and everything left as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers import FileServer
from vlmlake import open_lake
from vlmlake.store_schema import paths, retries

EXTRACT: dict[str, tuple[dict[str, str], str]] = {
    "model folder that is not there": ({"model": "/no/such/folder"}, "no model folder at /no/such/folder"),
    "model folder that is not here": ({"model": "./missing"}, "no model folder at ./missing"),
    "model name mistyped": ({"model": "tiny-lava"}, "no model folder at tiny-lava"),
    "model empty": ({"model": ""}, "the model is empty"),
    "kind of data set unknown": (
        {"dataset": "coco:somewhere"},
        "unknown kind of dataset in 'coco:somewhere': expected pope:PATH",
    ),
    "questions that are not there": ({"dataset": "pope:/no/such/file.json"}, "no POPE questions at /no/such/file.json"),
    "scenes that are no number": (
        {"dataset": "shapes:many"},
        "shapes:many is not shapes:IMAGES or shapes:IMAGES@SEED",
    ),
    "table of no known kind": ({"dataset": "table:{tmp}/x.xlsx"}, "cannot tell what"),
    "table that is not there": ({"dataset": "table:/no/such.csv"}, "/no/such.csv"),
    "stored dtype unknown": ({"dtype": "int8"}, "dtype is int8, expected one of float16, bfloat16, float32"),
    "batch of nothing": ({"batch-size": "0"}, "batch size is 0, expected at least 1"),
    "answer of nothing": ({"answer-tokens": "0"}, "answer tokens is 0, expected at least 1"),
    "answer beyond the model": (
        {"answer-tokens": "500"},
        "needs 552 positions with its answer, the model's reach 512: shorten the question",
    ),
    "protocol unknown": ({"lake": "nosuch://bucket/lake"}, "cannot open nosuch://bucket/lake"),
    "lake empty": ({"lake": ""}, "the URL of the lake is empty"),
    "lake behind a web server": ({"lake": "http://127.0.0.1:9/lake"}, "is a web address: it can be read"),
    "lake with a query": ({"lake": "https://host/lake?token=hush"}, "expected an address without ? and #"),
    "option that S3 does not know": (
        {"lake": "s3://bucket/lake", "storage-option": "nonsense=1"},
        "cannot open s3://bucket/lake",
    ),
    "storage option without a value": ({"storage-option": "endpoint"}, "not of the form NAME=VALUE"),
    "credential on the command line": ({"storage-option": "secret=hush"}, "credentials come from the environment"),
    "worker beyond the last": ({"worker": "3/3"}, "worker 3/3 is none: expected I/N with I from 0 to N - 1"),
    "worker that is no number": ({"worker": "first"}, "worker is 'first', expected I/N"),
    "worker below the first": ({"worker": "-1/2"}, "worker is '-1/2', expected I/N"),
    "device unknown": ({"device": "abacus"}, "cannot run on abacus"),
    "device without values": ({"device": "meta"}, "cannot run on meta"),
    "column without a name": ({"column": "question"}, "--column question: expected FIELD=NAME"),
    "column of a fixed format": ({"column": "question=prompt"}, "columns can be named for table: and hub: only"),
    "dtype of the weights unknown": (
        {"model-dtype": "int4"},
        "model dtype is int4, expected one of auto, float32, bfloat16, float16",
    ),
    "attention kernel unknown": (
        {"attn": "magic"},
        "attention is magic, expected one of sdpa, flash_attention_2, eager",
    ),
    "plan unknown": ({"plan": "huge"}, "no plan named huge: expected full, suffix, readout or a file ending in .toml"),
    "plan that is not there": ({"plan": "/no/such/plan.toml"}, "no plan at /no/such/plan.toml: the file is not there"),
    "plan of unknown arrays": ({"plan": "{tmp}/heads.toml"}, "plan heads: unknown arrays heads; expected some of"),
    "plan of unknown layers": ({"plan": "{tmp}/far.toml"}, "block_99"),
    "plan that is no TOML": ({"plan": "{tmp}/torn.toml"}, "torn.toml"),
    "samples below none": ({"samples": "-1"}, "samples is -1, expected 0 or more"),
    "temperature of nothing": ({"temperature": "0"}, "temperature is 0.0, expected a number above 0"),
    "temperature that is no number": ({"temperature": "nan"}, "temperature is nan, expected a number above 0"),
    "probability above one": ({"top-p": "1.5"}, "top-p is 1.5, expected a number above 0 and at most 1"),
    "images that are not there": ({"images": "/no/such/images"}, "no folder of images at /no/such/images"),
}

LAKE: dict[str, tuple[tuple[str, ...], str]] = {
    "info: no lake": (("info", "{tmp}/nowhere"), "no lake at"),
    "info: header torn": (("info", "{tmp}/torn"), "is not valid JSON"),
    "info: header without a version": (("info", "{tmp}/unversioned"), "names no format_version"),
    "info: lake of a newer format": (("info", "{tmp}/newer"), "has format 99, this vlmlake reads 4: pip install"),
    "info: lake of an older format": (("info", "{tmp}/older"), "has format 1, from before the first release"),
    "info: web server that is not there": (("info", "http://127.0.0.1:9/lake"), "no answer in 2 attempts"),
    "info: web lake without an index": (("info", "{web}/unindexed"), "there is no index.json of"),
    "info: web lake whose index leads out": (("info", "{web}/astray"), "names files outside its folders"),
    "status: run unknown": (("status", "{lake}", "--run", "../../etc"), "no single run named ../../etc"),
    "finish: no lake": (("finish", "{tmp}/nowhere"), "no lake at"),
    "finish: run unknown": (("finish", "{lake}", "--run", "nope"), "no single run named nope"),
    "finish: batches missing": (("finish", "{tmp}/unfinished"), "has 9 of 10 batches"),
    "verify: run unknown": (("verify", "{lake}", "--run", "nope"), "no single run named nope"),
    "verify: replay with another model": (
        ("verify", "{lake}", "--replay", "1", "--model", "{paligemma}"),
        "tiny-paligemma",
    ),
    "verify: replay without the data": (
        ("verify", "{lake}", "--replay", "1", "--dataset", "pope:/no/such"),
        "no POPE questions at /no/such",
    ),
    "gc: no lake": (("gc", "{tmp}/nowhere", "--delete"), "no lake at"),
    "copy: array unknown": (("copy", "{lake}", "{tmp}/copy", "--array", "heads"), "has no array heads: there are"),
    "copy: layer unknown": (
        ("copy", "{lake}", "{tmp}/copy", "--layer", "block_99"),
        "no layer block_99: there are",
    ),
    "copy: example unknown": (("copy", "{lake}", "{tmp}/copy", "--example", "../x"), "has no example ../x: there are"),
    "copy: nothing chosen": (("copy", "{lake}", "{tmp}/copy", "--where", "false"), "nothing to copy: no example"),
    "copy: condition that is no SQL": (("copy", "{lake}", "{tmp}/copy", "--where", "split ="), "no SQL: Parser Error"),
    "copy: condition that ends early": (
        ("copy", "{lake}", "{tmp}/copy", "--where", "true); drop view examples; --"),
        "is no SQL: ",
    ),
    "copy: chosen twice over": (
        ("copy", "{lake}", "{tmp}/copy", "--where", "true", "--example", "a"),
        "--example and --where both choose examples",
    ),
    "copy: target empty": (("copy", "{lake}", ""), "the URL of the lake is empty"),
    "copy: target behind a web server": (("copy", "{lake}", "{web}/copy"), "is a web address"),
    "analyze: analysis unknown": (("analyze", "{lake}", "magic"), "unknown analysis magic: expected labels, attention"),
    "analyze: run unknown": (("analyze", "{lake}", "--run", "nope"), "no single run named nope"),
    "analyze: rule unknown": (("analyze", "{lake}", "labels", "--rule", "fuzzy"), "unknown label rule fuzzy"),
    "analyze: rule that leads out": (("analyze", "{lake}", "labels", "--rule", "../x"), "unknown label rule ../x"),
    "analyze: lake without runs": (("analyze", "{tmp}/empty"), "has no runs to analyze"),
    "analyze: lake that cannot be written to": (("analyze", "{web}/whole"), "is a web address"),
    "analyze: parameter of no analysis": (
        ("analyze", "{lake}", "--set", "magic.folds=3"),
        "--set magic.folds=3: unknown analysis magic",
    ),
    "analyze: parameter unknown": (("analyze", "{lake}", "--set", "probes.fold=3"), "probes has no parameter fold"),
    "analyze: parameter of another kind": (
        ("analyze", "{lake}", "selective", "--set", "selective.coverages=half"),
        "half is no list of float",
    ),
    "analyze: one fold": (("analyze", "{lake}", "probes", "--set", "probes.folds=1"), "folds is 1, expected"),
    "analyze: share beyond one": (
        ("analyze", "{lake}", "neurons", "--set", "neurons.kept_share=2"),
        "kept_share is 2.0, expected",
    ),
    "analyze: condition that is no SQL": (("analyze", "{lake}", "--where", "split ="), "is no SQL: Parser Error"),
    "analyze: condition that reaches out": (
        ("analyze", "{lake}", "--where", "true) or (true"),
        "is no SQL: Parser Error",
    ),
    "analyze: condition that is empty": (("analyze", "{lake}", "--where", ""), "the condition is empty"),
    "analyze: condition that nothing meets": (("analyze", "{lake}", "--where", "false"), "has no example where false"),
    "analyze: scheduler that is no address": (
        ("analyze", "{lake}", "--scheduler", "nowhere"),
        "no Dask scheduler answers at nowhere",
    ),
    "study: run unknown": (("study", "{lake}", "--run", "nope"), "no single run named nope"),
    "study: rule unknown": (("study", "{lake}", "--rule", "fuzzy"), "unknown label rule fuzzy"),
    "study: rule that nothing was analyzed under": (
        ("study", "{lake}", "--rule", "vqa_soft"),
        "no run was analyzed under the rule vqa_soft",
    ),
    "sql: no SQL": (("sql", "{lake}", "selec 1"), "SQL: Parser Error: syntax error"),
    "sql: column unknown": (
        ("sql", "{lake}", "select nope from examples"),
        'SQL: Binder Error: Referenced column "nope" not found',
    ),
    "sql: table unknown": (("sql", "{lake}", "select * from nope"), "SQL: Catalog Error: Table with name nope"),
    "sql: two statements": (("sql", "{lake}", "select 1; select 2"), "SQL: expected one statement, got 2"),
    "sql: no statement": (("sql", "{lake}", ""), "SQL: expected one statement, got 0"),
    "sql: file read": (("sql", "{lake}", "select * from read_csv('/etc/hostname')"), "SQL: Permission Error"),
    "sql: file written": (("sql", "{lake}", "copy examples to '{tmp}/out.csv'"), "SQL: Permission Error"),
    "sql: lock picked": (("sql", "{lake}", "set enable_external_access = true"), "SQL: "),
    "plan: image size without a height": (
        ("plan", *("{job}",), "--image-size", "640"),
        "image size is '640', expected",
    ),
    "plan: image size of nothing": (("plan", *("{job}",), "--image-size", "0x480"), "image size is '0x480', expected"),
    "shapes: folder that is a file": (("shapes", "{tmp}/file/scenes"), "{tmp}/file"),
}


def test_there_are_at_least_sixty() -> None:
    assert len(EXTRACT) + len(LAKE) >= 60


@pytest.fixture(scope="module")
def place(lake_url, tmp_path_factory) -> Path:
    """A folder of bad things."""
    folder = tmp_path_factory.mktemp("bad")
    headers = {"torn": "{", "unversioned": "[]", "newer": '{"format_version": 99}', "older": '{"format_version": 1}'}
    headers |= dict.fromkeys(("empty", "unindexed", "astray"), '{"format_version": 4}')
    for name, header in headers.items():
        (folder / name).mkdir()
        (folder / name / "lake.json").write_text(header)
    (folder / "astray" / "index.json").write_bytes(astray_index())
    plans = {"heads": 'arrays = ["heads"]', "far": 'layers = ["block_99"]', "torn": "arrays = ["}
    for name, text in plans.items():
        (folder / f"{name}.toml").write_text(text)
    (folder / "x.xlsx").write_text("")
    (folder / "file").write_text("")
    shutil.copytree(lake_url, folder / "whole")
    shutil.copytree(lake_url, folder / "unfinished")
    (run,) = open_lake(lake_url).runs
    (folder / "unfinished" / paths.batch(run, 3)).unlink()
    return folder


def astray_index() -> bytes:
    from vlmlake.store_schema import seals

    fields = {"runs": ["../../etc"], "findings": [], seals.KEY: seals.BLANK}
    return seals.sealed(json.dumps(fields).encode())


def everything_below(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("changes", "message"), EXTRACT.values(), ids=EXTRACT.keys())
def test_extract_refuses(refused, s3, place, tiny_llava, scenes, tmp_path, changes, message):
    options = {"model": str(tiny_llava), "dataset": f"pope:{scenes}", "lake": str(tmp_path / "lake"), **changes}
    words = [word.replace("{tmp}", str(place)) for name, value in options.items() for word in (f"--{name}={value}",)]
    line = refused("extract", *words)
    assert message in line
    assert "hush" not in line
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize(("words", "message"), LAKE.values(), ids=LAKE.keys())
def test_other_verbs_refuse(
    refused: Callable[..., str], place, lake_url, tiny_llava, scenes, monkeypatch, words, message
):
    monkeypatch.setattr(retries, "WAITS", (0.01,))
    before = everything_below(place), everything_below(Path(lake_url))
    with FileServer(place) as web:
        names = {"{tmp}": str(place), "{lake}": lake_url, "{web}": web.url}
        names["{paligemma}"] = str(tiny_llava.parent / "tiny-paligemma")
        given = []
        for word in words:
            if word == "{job}":
                given += ["--model", str(tiny_llava), "--dataset", f"pope:{scenes}"]
                continue
            for name, value in names.items():
                word = word.replace(name, value)
            given.append(word)
        line = refused(*given)
    assert message.replace("{tmp}", str(place)) in line
    assert (everything_below(place), everything_below(Path(lake_url))) == before
