"""1, 2, 3: two questions about a layer, beside bare zarr and numpy; the bytes that a condition on the layer reads."""

from __future__ import annotations

import numpy as np
import polars as pl
import zarr
from stores.counts import Cost

from statements import questions
from statements.lake import Subject, forget_indexes
from statements.table import Row, show
from statements.timing import measured
from vlmlake.queries import Session, scan, sql
from vlmlake.store_schema import paths
from vlmlake.store_schema.arrays import shard_file, shard_format

TIMES_BARE, TIMES_NUMPY, MOST_FETCHED, LARGEST_DIFFERENCE = 8.0, 4.0, 1.1, 1e-5
"""The targets. A norm adds 4,096 squares up in float32, one after the other: that may be 1e-5 off."""
ARRAY = "readout_states"


def rows(subject: Subject) -> tuple[list[Row], list[str], Cost]:
    """The table's rows, what must be known about them, and what row 1c cost."""
    norms, ours = _norms(subject)
    return [*norms, *_bytes(subject), *_nearest(subject)], _notes(subject), ours


def _norms(subject: Subject) -> tuple[list[Row], Cost]:
    condition, labels = questions.at(subject.layer_name), subject.labels
    joined, by_lists = questions.norms_joined(condition), questions.norms_joined(condition, questions.LIST_NORM)
    with Session.at(subject.url) as session:
        found = measured(
            {
                "whole": lambda: questions.norms_of(sql(subject.url, joined)),
                "joined": lambda: questions.norms_of(session.ask(joined).table),
                "lists": lambda: questions.norms_of(session.ask(by_lists).table),
                "first": lambda: questions.norms_of(session.ask(questions.norms_first(condition)).table),
                "polars": lambda: _polars(subject),
                "bare": lambda: questions.norms_by_label(bare(subject), labels),
            },
            subject.rounds,
        )
    plain = found["bare"][0]
    ratio = {name: cost.seconds / plain.seconds for name, (cost, _) in found.items()}
    compared = {name: f"{times:.2f} x bare" for name, times in ratio.items()}
    costs = {name: cost for name, (cost, _) in found.items()}
    off = questions.largest_difference(
        [answer for _, answer in found.values()], questions.norms_by_label(subject.vectors, labels)
    )
    most, close = f"<= {TIMES_BARE:g} x", f"<= {LARGEST_DIFFERENCE:g}"
    met, right = ratio["whole"] <= TIMES_BARE, off <= LARGEST_DIFFERENCE
    return [
        show("1a", "average norm by label: sql(), the lake opened", costs["whole"], compared["whole"], most, met),
        Row("1b", "all ways' averages", compared=f"differ by {off:.1e}", target=close, passed=right),
        show("1c", "the same statement, the session open already", costs["joined"], compared["joined"]),
        show("1d", "norms by list_sum(list_transform(...))", costs["lists"], compared["lists"]),
        show("1e", "norms first, then the join", costs["first"], compared["first"]),
        show("1f", "Polars: scan, filter, norm, join", costs["polars"], compared["polars"]),
        show("1g", "bare zarr and numpy, labels in memory", plain),
    ], costs["joined"]


def _bytes(subject: Subject) -> list[Row]:
    """All positions of the layer, and one."""
    found = []
    condition = f"layer = '{subject.layer_name}'"
    for part, what, where, stored in (
        ("2a", "WHERE layer = ...", condition, stored_bytes(subject, slice(None))),
        ("2b", "WHERE layer = ... AND position = ...", questions.at(subject.layer_name), stored_bytes(subject, 0)),
    ):
        with Session.at(subject.url) as session:
            forget_indexes()
            answer = session.ask(f"SELECT avg({questions.NORM}) FROM {ARRAY} WHERE {where}")
        (scanned,) = answer.scans
        share = answer.bytes / stored
        found.append(
            Row(
                part,
                f"{what}: {scanned.chunks:,} of {scanned.chunks_there:,} chunks",
                "",
                f"{answer.bytes / 1e6:,.1f}",
                f"{answer.requests:,}",
                f"{share:.3f} x stored",
                f"<= {MOST_FETCHED:g} x",
                share <= MOST_FETCHED,
            )
        )
    return found


def _nearest(subject: Subject) -> list[Row]:
    number = subject.states.examples // 3
    ids = sql(subject.url, "SELECT example FROM examples ORDER BY row")["example"].to_pylist()
    query = questions.nearest(questions.at(subject.layer_name), ids[number])
    with Session.at(subject.url) as session:
        found = measured(
            {
                "whole": lambda: sql(subject.url, query)["example"].to_pylist(),
                "open": lambda: session.ask(query).table["example"].to_pylist(),
                "numpy": lambda: [ids[place] for place in questions.nearest_to(bare(subject), number)],
            },
            subject.rounds,
        )
    expected = [ids[place] for place in questions.nearest_to(subject.vectors, number)]
    assert all(answer == expected for _, answer in found.values()), "other neighbours were found than there are"
    ours, session_open, plain = (found[name][0] for name in ("whole", "open", "numpy"))
    ratio, again = ours.seconds / plain.seconds, session_open.seconds / plain.seconds
    what, most = f"the {questions.NEIGHBOURS} nearest by cosine", f"<= {TIMES_NUMPY:g} x"
    return [
        show("3a", f"{what}: sql(), the lake opened", ours, f"{ratio:.2f} x numpy", most, ratio <= TIMES_NUMPY),
        show("3b", "the same statement, the session open already", session_open, f"{again:.2f} x numpy"),
        show("3c", "bare zarr and numpy", plain),
    ]


def bare(subject: Subject) -> np.ndarray:
    """float32 [example, hidden], as zarr reads it."""
    array = zarr.open_array(f"{subject.url}/{paths.arrays(subject.run.name)}/{ARRAY}", mode="r")
    return np.asarray(array[: subject.states.examples, subject.layer, 0]).astype(np.float32)


def stored_bytes(subject: Subject, positions: slice | int) -> int:
    """Bytes that the chunks of the layer have in their shards, compressed, at some positions."""
    run, total = subject.run, 0
    spec = next(spec for spec in run.record.specs if spec.name == ARRAY)
    form = shard_format(run.record, spec)
    assert form.chunks[1:3] == (1, 1), "a chunk holds more than one layer and position"
    for number in range(run.record.extents.batches):
        index = form.index(run.storage.read(shard_file(run.record, spec, number))[-form.index_bytes :])
        total += int(index[:, subject.layer, positions, ..., 1].sum())
    return total


def _polars(subject: Subject) -> questions.Norms:
    vector = pl.col("vector")
    states = scan(subject.run, ARRAY).filter(pl.col("layer") == subject.layer_name, pl.col("position") == "prompt_last")
    norms = states.select("example", norm=(vector * vector).arr.sum().sqrt())
    found = norms.join(subject.run.findings("labels").lazy(), on="example").group_by("label").agg(pl.col("norm").mean())
    return dict(found.collect().rows())


def _notes(subject: Subject) -> list[str]:
    states = subject.states
    return [
        f"{states.examples:,} examples, {states.layers} layers, 2 positions, {states.hidden:,} values, float16; "
        f"asked about: layer {subject.layer}, prompt_last, {states.one / 1e6:.1f} MB. Best of {subject.rounds} rounds",
        "through all ways of a section, forwards and backwards in turn. Files are in the page cache for all, "
        "indexes of shards known to none.",
        "1, 3, 5: MB and requests are what the operating system was asked to read, the lake's tables included. 1b: to "
        "float64 of the values as they were made.",
        "2: MB and requests as the storage was asked, indexes included; stored: the layer's chunks as they lie in the "
        "shards, all positions of it in 2a, one in 2b.",
    ]
