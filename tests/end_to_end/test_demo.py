"""The demo on fewer scenes: a table per model, commands that run as printed, a second run that only answers."""

from __future__ import annotations

import io
import re
import shlex
import sys
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from vlmlake import open_lake
from vlmlake.analysis.labels import labels
from vlmlake.analysis.published import PUBLISHED
from vlmlake.cli import main
from vlmlake.demo import checkpoints, run_demo
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.extract import extract
from vlmlake.ingest.job import Job
from vlmlake.ingest.model_source import ModelSource
from vlmlake.store_schema.verdict import is_sound
from vlmlake.store_schema.verify import verify

MODELS = ("tiny-llava", "tiny-paligemma", "tiny-qwen2-vl")


def demo_output(folder: Path) -> str:
    text = io.StringIO()
    run_demo(Console(file=text, width=200, markup=False), folder, images=30)
    return text.getvalue()


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> tuple[Path, str, str]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, demo_output(folder), demo_output(folder)


def table(out: str) -> list[str]:
    """The lines of the demo's study, a table per run and the notes."""
    told = out.partition("4. what the study")[2].partition("5. what the answers")[0]
    return [line for line in told.splitlines()[1:] if line.strip()]


def test_the_demo_makes_one_run_of_every_family(shown):
    folder, out, _ = shown
    lake = open_lake(str(folder / "lake"))
    assert [run.rpartition("-")[0] for run in lake.runs] == list(MODELS)
    assert {lake.run(run).record.identity["model"]["type"] for run in lake.runs} == {"llava", "paligemma", "qwen2_vl"}
    for run in lake.runs:
        record = lake.run(run).record
        assert (record.examples, lake.run(run).batches_done) == (360, record.extents.batches)
        assert f"{run}: {record.rows} of {record.rows} questions computed" in out
        assert lake[run].sizes["example"] == 360


def test_the_demo_ends_with_the_studys_table(shown):
    lines = table(shown[1])
    for model, published in zip(MODELS, ("llava", "paligemma", "qwen2_vl"), strict=True):
        (head,) = [place for place, line in enumerate(lines) if line.startswith(f"{model}-")]
        assert lines[head].endswith(f"({published})")
        for number in (one for one in PUBLISHED if one.family == published):
            (row,) = [
                line
                for line in lines[head:]
                if number.quantity in line and number.value in line and number.where in line
            ][:1]
            assert number.rule or re.search(r" -?\d+(\.\d+)? \[| \(of \d", row), row


def test_every_published_number_has_one_statistic_of_ours(shown):
    results = open_lake(str(shown[0] / "lake")).table("results").filter(pl.col("condition").is_null())
    for number in (one for one in PUBLISHED if one.changed is None):
        wanted = {**number.ours, "rule": number.rule or "pope_official"}
        (run,) = (run for run in results["run"].unique() if number.family.replace("_", "-") in run)
        fitting = results.filter(run=run).filter(*(pl.col(name).eq_missing(value) for name, value in wanted.items()))
        assert fitting.height == 1 or number.as_falling_blocks, (number, fitting)


def test_the_demo_ends_with_a_causal_table_of_every_family(shown):
    told = shown[1].partition("5. what the answers")[2].partition("All of it took")[0]
    for model in MODELS:
        lines = told.partition(f"{model}-")[2].partition("\n\n")[0].splitlines()
        for wanted in (r"top +l1 .* 5 .*of 101", r"top +l1 .* 32 0\.5 .*of 101", "high .*0.3", "high minus random"):
            assert [line for line in lines if re.match(wanted, line)], (model, wanted)
    outcomes = open_lake(str(shown[0] / "lake")).table("outcomes")
    assert outcomes.group_by("run", "condition", "example").len()["len"].max() == 1


def test_a_second_demo_computes_nothing_and_tells_the_same(shown):
    _, first, second = shown
    assert "nothing to do" not in first
    assert second.count("nothing to do") == 3
    assert "\n0 analyses computed" in second
    assert len(re.findall(r": 0 outcomes made", second)) == 6
    assert len(table(first)) > 40
    assert table(first) == table(second)


def test_the_commands_run_as_printed(shown, monkeypatch, capsys):
    folder, out, _ = shown
    commands = [line.strip() for line in out.partition("Try next:")[2].splitlines() if line.strip()]
    assert len(commands) == 8
    assert len([command for command in commands if command.split()[1] == "query"]) == 3
    for command in commands:
        words = shlex.split(command)
        assert any(str(folder) in word for word in words[2:4])
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
        at_least = 2 if words[1] == "query" else 4  # of these few scenes a question may have a single row
        assert len(capsys.readouterr().out.splitlines()) >= at_least


def test_the_demos_lake_is_sound(shown):
    folder, _, _ = shown
    verdicts = verify(open_lake(str(folder / "lake")))
    assert is_sound(verdicts), verdicts
    assert sum(verdict.looked.examples for verdict in verdicts) == 3 * 360


@pytest.mark.parametrize("folder", checkpoints(), ids=lambda folder: folder.name)
def test_a_tiny_model_makes_honest_errors(folder, tmp_path):
    """On fresh scenes: between 0.80 and 0.93 right on adversarial questions, better on random ones."""
    source, decoding = ModelSource(str(folder)), Decoding(answer_tokens=1)
    job = Job(source, ("shapes:250@987654",), str(tmp_path / "lake"), decoding=decoding, batch_size=96)
    run = extract(job).run
    found = labels(open_lake(job.lake)[run])
    rows = {split: found.row(metric="accuracy", split=split)["value"] for split in ("adversarial", "random")}
    assert 0.80 <= rows["adversarial"] <= 0.93
    assert rows["random"] > rows["adversarial"]
