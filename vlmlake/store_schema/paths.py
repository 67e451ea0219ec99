"""Where everything lies below a lake's URL."""

from __future__ import annotations

LAKE = "lake.json"
INDEX = "index.json"
"""Names of the finished runs and of the findings, for readers that cannot list folders."""
RUNS = "runs"


def run_record(run: str) -> str:
    """Written last when a run is created: a run exists if and only if this file does."""
    return f"{RUNS}/{run}/run.json"


def arrays(run: str) -> str:
    """The Zarr group of a run."""
    return f"{RUNS}/{run}/arrays.zarr"


def vocabulary(run: str) -> str:
    """The text of every token id."""
    return f"{RUNS}/{run}/vocabulary.parquet"


def skipped(run: str) -> str:
    """Examples that the run left out because their image is broken; absent where there are none."""
    return f"{RUNS}/{run}/skipped.parquet"


def batches(run: str) -> str:
    """The folder of the commits."""
    return f"{RUNS}/{run}/batches"


def batch(run: str, number: int) -> str:
    """The commit of one batch: its examples are visible if and only if this file exists."""
    return f"{batches(run)}/{number:06d}.parquet"


def batch_list(run: str) -> str:
    """All commits of a finished run in one file: it is there if and only if the run is finished."""
    return f"{RUNS}/{run}/batches.parquet"


def workers(run: str) -> str:
    """The folder of the notes in which the writers of a run say how far they are."""
    return f"{RUNS}/{run}/workers"


def finding(table: str, analysis: str, run: str, key: str) -> str:
    """What one analysis or intervention found in one run, for one of tables.FINDINGS. key: what tells its settings, or
    its part, from others.
    """
    return f"{table}/{analysis}/{run}/{key}.parquet"
