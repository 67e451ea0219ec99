"""The demo on fewer scenes: a table per model, commands that run as printed, a second run that only answers."""

from __future__ import annotations

import io
import re
import shlex
import sys
from pathlib import Path

import pytest
from rich.console import Console

from vlmlake import open_lake
from vlmlake.analysis.accuracy import answer_accuracy
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
    """The lines of the demo's table, its head first."""
    told = out.partition("2. answer")[2].partition("All of it took")[0]
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
    assert table(out)[0].split() == ["question", "where", *lake.runs]


def test_the_demo_ends_with_its_table(shown):
    _, *rows, note = table(shown[1])
    for row in rows:
        assert len(re.findall(r" -?\d\.\d\d\d \[-?\d\.\d\d\d, -?\d\.\d\d\d\]", row)) == len(MODELS), row
    for question in ("accuracy", "AUROC of probe", "AUROC of probe_nested", "R of entropy and correctness"):
        assert any(row.strip().startswith(f"{question} ") for row in rows), question
    for place in ("adversarial", "popular", "random", "block_3", "chosen", "mean"):
        assert any(f" {place} " in row for row in rows), place
    assert re.search(
        r"accuracy over 120 examples a split, the others over \d+ different questions about 30 images", note
    )


def test_a_second_demo_computes_nothing_and_tells_the_same(shown):
    _, first, second = shown
    assert "nothing to do" not in first
    assert second.count("nothing to do") == 3
    assert len(table(first)) > 10
    assert table(first) == table(second)


def test_the_commands_run_as_printed(shown, monkeypatch, capsys):
    folder, out, _ = shown
    commands = [line.strip() for line in out.partition("Try next:")[2].splitlines() if line.strip()]
    assert len(commands) == 4
    for command in commands:
        words = shlex.split(command)
        assert str(folder) in words[2]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
        assert len(capsys.readouterr().out.splitlines()) > 3


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
    rows = {row["split"]: row["value"] for row in answer_accuracy(open_lake(job.lake)[run])}
    assert 0.80 <= rows["adversarial"] <= 0.93
    assert rows["random"] > rows["adversarial"]
