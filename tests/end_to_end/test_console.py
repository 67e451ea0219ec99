import io
from dataclasses import replace

import polars as pl
import pytest
from rich.console import Console

from vlmlake import open_lake
from vlmlake.console import print_results
from vlmlake.console.extraction import print_outcome
from vlmlake.ingest.extract import Outcome
from vlmlake.store_schema.sizes import size_in_words

NOTHING_TO_DO = Outcome("run", examples=4, rows=4, computed=0, skipped=0, missing=0, written=0, seconds=1.0, waited=0.0)


def test_results_fit_a_terminal_of_eighty_columns(lake_url):
    results = open_lake(lake_url).table("results").filter(pl.col("head").is_null(), pl.col("split") == "all")
    text = io.StringIO()
    print_results(Console(file=text, width=80, markup=False, highlight=False, soft_wrap=True), results)
    lines = text.getvalue().splitlines()
    rows = [line for line in lines if line and "," not in line and ":" not in line]
    assert len(rows) > 200
    assert max(len(line.rstrip()) for line in rows) <= 80
    assert any("readout states at embed are the same for all" in line for line in lines)


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_500_000, "2.5 MB"), (3e12, "3.0 TB")]
)
def test_sizes_are_told_in_words(count, words):
    assert size_in_words(count) == words


@pytest.mark.parametrize(("skipped", "words"), [(1, "1 example was left out"), (2, "2 examples were left out")])
def test_examples_left_out_are_counted_in_words(skipped, words):
    text = io.StringIO()
    outcome = replace(NOTHING_TO_DO, skipped=skipped)
    print_outcome(Console(file=text, width=120), outcome)
    assert f"{words} for a broken image" in text.getvalue()


def test_batches_of_other_workers_are_counted():
    text = io.StringIO()
    print_outcome(Console(file=text, width=120), replace(NOTHING_TO_DO, missing=3))
    assert "3 batches are left to other workers" in text.getvalue()
