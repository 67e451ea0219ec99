"""The main job in one go: draw scenes, run the tiny models once, answer from the store."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

from vlmlake.analysis.analyze import analyze
from vlmlake.analysis.samples import ALL_SPLITS
from vlmlake.console.extraction import extract_with_progress
from vlmlake.store_schema.schema import PROMPT_LAST

ANSWER_TOKENS = 4
UNTOLD = "-"
"""In place of a value that an estimator refused."""

TINY_MODELS = ("tiny-llava", "tiny-paligemma", "tiny-qwen2-vl")


def run_demo(console: Console, folder: Path, images: int, seed: int = 1) -> None:
    """Make a small lake below `folder` and print what it tells. Running it again finds the lake and only answers."""
    from vlmlake.ingest.decoding import Decoding
    from vlmlake.ingest.job import Job
    from vlmlake.ingest.model_source import ModelSource

    started = time.monotonic()
    lake = folder / "lake"
    console.print(f"1. run three tiny models once over {images} drawn scenes, what happens inside them goes to {lake}")
    runs = []
    for model in checkpoints():
        source = ModelSource(str(model))
        job = Job(source, (f"shapes:{images}@{seed}",), str(lake), decoding=Decoding(answer_tokens=ANSWER_TOKENS))
        runs.append(extract_with_progress(console, job))
    console.print("2. answer from the store, without the models")
    tables = []
    for run in runs:
        found = analyze(str(lake), run=run)
        found.raise_refusals()
        tables.append(found.table)
    _print_answers(console, runs, tables)
    console.print(f"\nAll of it took {time.monotonic() - started:.0f} s. The lake lies in {lake}. Try next:")
    for command in next_commands(lake):
        console.print(f"  {command}", soft_wrap=True)


def checkpoints() -> list[Path]:
    """The tiny models that the package carries, one per family."""
    return [Path(str(files("vlmlake.ingest") / "checkpoints" / name)) for name in TINY_MODELS]


def next_commands(lake: Path) -> Sequence[str]:
    """Commands for a reader who wants to go on."""
    confident_errors = (
        "select distinct e.run, e.image, e.question, a.answer, a.first_log_prob "
        "from examples e join answers a using (run, example) "
        "where e.gold <> lower(trim(a.answer)) order by a.first_log_prob desc limit 10"
    )
    vlmlake = "vlmlake" if shutil.which("vlmlake") else sys.argv[0]
    return (
        f"{vlmlake} info {lake}",
        f'{vlmlake} sql {lake} "{confident_errors}"',
        f"{vlmlake} analyze {lake} probes --rule exact",
        f"{vlmlake} verify {lake} --replay 5",
    )


def _print_answers(console: Console, runs: Sequence[str], tables: Sequence[pl.DataFrame]) -> None:
    """One row a question, one column a run: the value with its 95 % interval."""
    shown = Table("question", "where", *runs, box=None)
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for run, results in zip(runs, tables, strict=True):
        for row in _shown(results).iter_rows(named=True):
            cells.setdefault((_question(row), row["layer"] or row["split"]), {})[run] = _answer(row)
    for (question, where), answers in cells.items():
        if set(answers.values()) != {UNTOLD}:
            shown.add_row(question, where, *(answers.get(run, "") for run in runs))
    console.print(shown)
    every = pl.concat(tables)
    by_split = every.filter((pl.col("metric") == "accuracy") & (pl.col("split") != ALL_SPLITS))["n"]
    pooled = every.filter(pl.col("split") == ALL_SPLITS)
    examples, questions, images = (max(column) for column in (by_split, pooled["n"], pooled["n_images"]))
    console.print(
        f"with 95 % intervals; accuracy over {examples} examples a split, the others over {questions} different "
        f"questions about {images} images"
    )


def _question(row: Mapping[str, Any]) -> str:
    if row["statistic"] == "point_biserial":
        return "R of entropy and correctness"
    return f"AUROC of {row['metric']}" if row["statistic"] == "auroc" else str(row["metric"])


def _answer(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return UNTOLD
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _shown(results: pl.DataFrame) -> pl.DataFrame:
    """Accuracy by split, the probes by layer, and the entropy's R at the answer's tokens, pooled over splits."""
    accuracy = (pl.col("metric") == "accuracy") & (pl.col("split") != ALL_SPLITS)
    probed = pl.col("metric").is_in(["probe", "probe_nested", "probe_shuffled", "first_log_prob"]) & (
        pl.col("position") == PROMPT_LAST
    )
    entropy = (
        (pl.col("statistic") == "point_biserial") & (pl.col("split") == ALL_SPLITS) & (pl.col("position") == "answer")
    )
    return results.filter(accuracy | probed | entropy)
