"""Whether the rows of a commit can be: their places, their lengths, their answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from vlmlake.store_schema.commit import Commit
from vlmlake.store_schema.run_record import RunRecord

NEEDED = (
    "run",
    "example",
    "image_sha256",
    "question",
    "prefix_tokens",
    "suffix_tokens",
    "batch",
    "row",
    "prefix",
    "answer_tokens",
    "token_ids",
    "log_probs",
    "finish",
)
"""Columns that every row has a value in."""

ROUNDING = 1e-3
"""How far above 0 a log-prob may come out."""

Row = Mapping[str, Any]


def check_rows(record: RunRecord, commit: Commit) -> list[str]:
    """What is wrong with the rows, each kind of fault once."""
    rows = commit.rows.to_pylist()
    if not rows:
        return ["its commit has no rows"]
    empty = [name for name in NEEDED if any(row[name] is None for row in rows)]
    if empty:
        return [f"its rows have no value in {', '.join(empty)}"]
    places = [*_places(record, commit.batch, rows)]
    return places or [*_equal_questions(rows), *_once_each(rows, _faults(record))]


def _places(record: RunRecord, number: int, rows: Sequence[Row]) -> Iterator[str]:
    if {row["run"] for row in rows} != {record.name}:
        yield f"rows of other runs are in its commit: {sorted({row['run'] for row in rows} - {record.name})}"
    if {row["batch"] for row in rows} != {number}:
        yield f"its rows say that they are of batch {sorted({row['batch'] for row in rows} - {number})}"
    for column, width in (("row", record.extents.example_rows), ("prefix", record.extents.prefix_rows)):
        taken = sorted({row[column] - number * width for row in rows})
        if taken[0] < 0 or taken[-1] >= width:
            yield f"its column {column} goes beyond the batch's {width} places from {number * width} on"
        elif taken != list(range(len(taken))):
            yield f"its column {column} has holes: {len(taken)} places up to {number * width + taken[-1]}"


def _equal_questions(rows: Sequence[Row]) -> Iterator[str]:
    """Examples with one row ask the same; questions with one prefix have it of one length."""
    shared = ("image_sha256", "question", "prefix", "prefix_tokens", "suffix_tokens", "answer_tokens", "token_ids")
    for group, columns in (("row", shared), ("prefix", ("image_sha256", "prefix_tokens"))):
        first: dict[int, Row] = {}
        for row in rows:
            there = first.setdefault(row[group], row)
            if different := [name for name in columns if there[name] != row[name]]:
                yield f"{there['example']} and {row['example']} share {group} {row[group]}, and differ in {different}"
                break


def _once_each(rows: Sequence[Row], faults: Mapping[str, Any]) -> Iterable[str]:
    for what, is_wrong in faults.items():
        wrong = [row["example"] for row in rows if is_wrong(row)]
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            yield f"{what}: {wrong[0]}{more}"


def _faults(record: RunRecord) -> Mapping[str, Any]:
    """By the words for it, what is wrong with a row."""
    extents = record.extents
    return {
        "prefix_tokens is beyond the run's": lambda row: not 0 <= row["prefix_tokens"] <= extents.prefix_tokens,
        "suffix_tokens and answer_tokens are beyond the run's": lambda row: (
            row["suffix_tokens"] < 1
            or row["answer_tokens"] < 0
            or row["suffix_tokens"] + row["answer_tokens"] > extents.tokens
        ),
        "token_ids and answer_tokens do not agree": lambda row: (
            len(row["token_ids"]) != row["answer_tokens"] + (row["finish"] == "stop")
        ),
        "token_ids and log_probs are not equally many": lambda row: len(row["token_ids"]) != len(row["log_probs"]),
        "log_probs are no logarithms of probabilities": lambda row: any(
            not (value is not None and value <= ROUNDING) for value in row["log_probs"]
        ),
        "a sample's token_ids, log_probs and answer_tokens do not agree": lambda row: any(
            not _agrees(drawn) for drawn in row["samples"] or ()
        ),
        "finish is neither stop nor length": lambda row: row["finish"] not in ("stop", "length"),
        "token_ids are not in the vocabulary": lambda row: any(
            not (token is not None and 0 <= token < extents.vocab) for token in row["token_ids"]
        ),
    }


def _agrees(drawn: Row | None) -> bool:
    if drawn is None or None in (drawn["token_ids"], drawn["log_probs"], drawn["answer_tokens"]):
        return False
    tokens: int = drawn["answer_tokens"] + (drawn["finish"] == "stop")
    return len(drawn["token_ids"]) == tokens and len(drawn["log_probs"]) == tokens
