"""The demo on fewer scenes: it ends with its table, its commands run as printed, and a second run only answers."""

from __future__ import annotations

import io
import re
import shlex
import sys
from pathlib import Path

import pytest
from rich.console import Console

from vlmlake.cli import main
from vlmlake.demo import run_demo


def demo_output(folder: Path) -> str:
    text = io.StringIO()
    run_demo(Console(file=text, width=200, markup=False), folder, images=30)
    return text.getvalue()


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> tuple[Path, str, str]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, demo_output(folder), demo_output(folder)


def test_the_demo_ends_with_its_table(shown):
    _, out, _ = shown
    for row in ("accuracy", "AUROC of probe", "AUROC of probe_nested", "R of entropy and correctness"):
        assert re.search(rf"{row} .*\d\.\d\d\d +\[-?\d\.\d\d\d, -?\d\.\d\d\d\] +\d+ +30", out), row
    for place in ("adversarial", "popular", "random", "embed", "block_3", "chosen", "mean"):
        assert re.search(rf" {place} ", out), place


def test_a_second_demo_computes_nothing_and_tells_the_same(shown):
    _, first, second = shown
    assert "nothing to do" not in first
    assert "nothing to do" in second

    def table(out):
        return out.partition("3. answer")[2].partition("All of it took")[0]

    assert table(first) == table(second)


def test_the_commands_run_as_printed(shown, monkeypatch, capsys):
    folder, out, _ = shown
    commands = [line.strip() for line in out.partition("Try next:")[2].splitlines() if line.strip()]
    assert len(commands) == 3
    for command in commands:
        words = shlex.split(command)
        assert str(folder) in words[2]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
        assert len(capsys.readouterr().out.splitlines()) > 3


def test_the_tiny_model_makes_honest_errors(tiny_llava, tmp_path):
    """On fresh scenes: between 0.80 and 0.93 right on adversarial questions, better on random ones."""
    from vlmlake.analysis.accuracy import answer_accuracy
    from vlmlake.ingest.datasets.shapes import write_benchmark
    from vlmlake.ingest.extract import extract
    from vlmlake.ingest.job import Job
    from vlmlake.store_schema.lake import open_lake

    write_benchmark(tmp_path / "scenes", images=250, seed=987_654)
    url = str(tmp_path / "lake")
    run = extract(Job(str(tiny_llava), f"pope:{tmp_path / 'scenes'}", url, answer_tokens=1, batch_size=96)).run
    rows = {row["split"]: row["value"] for row in answer_accuracy(open_lake(url)[run])}
    assert 0.80 <= rows["adversarial"] <= 0.93
    assert rows["random"] > rows["adversarial"]
