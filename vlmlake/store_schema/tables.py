"""Arrow schemas of the tables, and how a table becomes bytes and back."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from vlmlake.errors import DamagedError
from vlmlake.store_schema import seals
from vlmlake.store_schema.storage import AT_ONCE, Storage

ROWS_A_BYTE = 4
"""More than any table has: its keys alone take a byte a row."""
MOST_BYTES = 4 * 2**30
LARGEST_RATIO = 1000
ALWAYS_BYTES = 16 * 2**20
"""What a table may unpack to: in all, and for the bytes of its file, beside what any may."""

KEYS = pa.schema([("run", pa.string()), ("example", pa.string())])

EXAMPLES = pa.schema(
    [
        *KEYS,
        ("dataset", pa.string()),
        ("split", pa.string()),
        ("image", pa.string()),
        ("image_sha256", pa.string()),
        ("question_id", pa.string()),
        ("question", pa.string()),
        ("gold", pa.string()),
        ("prompt", pa.string()),
        ("prefix_tokens", pa.int32()),
        ("suffix_tokens", pa.int32()),
        ("batch", pa.int32()),
        ("row", pa.int64()),
        ("prefix", pa.int64()),
    ]
)
"""One row per example. prefix_tokens and suffix_tokens count the prompt before and after the split; `row` and `prefix`
are the example's places on the arrays' example and prefix axes: examples of equal image and question have one row."""

ANSWERS = pa.schema(
    [
        *KEYS,
        ("answer", pa.string()),
        ("answer_tokens", pa.int32()),
        ("token_ids", pa.list_(pa.int32())),
        ("log_probs", pa.list_(pa.float32())),
        ("finish", pa.string()),
        ("first_log_prob", pa.float32()),
        ("first_gap", pa.float32()),
        ("first_entropy", pa.float32()),
    ]
)
"""One greedy answer per example. token_ids and log_probs (natural log) include the end token where one was generated,
answer_tokens does not count it; finish is `stop` or `length`. Of the first answer token's distribution: the log-prob of
the token taken, the gap between the two largest logits, and the entropy in nats."""

SAMPLES = pa.schema(
    [
        *KEYS,
        ("sample", pa.int32()),
        ("answer", pa.string()),
        ("answer_tokens", pa.int32()),
        ("token_ids", pa.list_(pa.int32())),
        ("log_probs", pa.list_(pa.float32())),
        ("finish", pa.string()),
    ]
)
"""One row per sampled answer, columns as in ANSWERS. log_probs are the model's own, before temperature and top-p."""

EXAMPLE_ROWS = pa.unify_schemas([EXAMPLES, ANSWERS])
"""Examples and their greedy answers side by side."""

BATCH = EXAMPLE_ROWS.append(pa.field("samples", pa.list_(pa.struct(list(SAMPLES)[len(KEYS) :]))))
"""What one batch's file holds: EXAMPLE_ROWS, and the sampled answers of each example as a list."""

SKIPPED = pa.schema(
    [
        *KEYS,
        ("dataset", pa.string()),
        ("split", pa.string()),
        ("image", pa.string()),
        ("question_id", pa.string()),
        ("question", pa.string()),
        ("gold", pa.string()),
        ("reason", pa.string()),
    ]
)
"""One row per example that was left out, and what was wrong with its image."""

FOOTER = 2**16
"""Bytes at a file's end that are read for its footer; what is longer takes a second read."""
ARROW_SCHEMA = b"ARROW:schema"

VOCABULARY = pa.schema([("id", pa.int32()), ("text", pa.string())])

RESULTS = pa.schema(
    [
        ("analysis", pa.string()),
        ("run", pa.string()),
        ("dataset", pa.string()),
        ("split", pa.string()),
        ("rule", pa.string()),
        ("condition", pa.string()),
        ("intervention", pa.string()),
        ("gold", pa.string()),
        ("metric", pa.string()),
        ("position", pa.string()),
        ("layer", pa.string()),
        ("head", pa.int32()),
        ("at", pa.float64()),
        ("statistic", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("interval", pa.string()),
        ("p_value", pa.float64()),
        ("p_holm", pa.float64()),
        ("n", pa.int64()),
        ("n_items", pa.int64()),
        ("n_images", pa.int64()),
        ("base_rate", pa.float64()),
        ("note", pa.string()),
        ("settings", pa.string()),
        ("content", pa.string()),
        ("code", pa.string()),
    ]
)
"""One row per statistic of an analysis. condition: on examples, in SQL, null for all; intervention: what was changed,
by its id in INTERVENTIONS; gold: the gold answer that the examples have in common, null for all; at: the place on a
curve (a coverage, a number of neurons). low and high bound the 95 % interval that `interval` names; p_holm is the
p-value after Holm over the rows of that intervention, split and gold; n counts examples, n_items distinct (image,
question) pairs, n_images distinct images; base_rate is the share of right answers; settings: the seed and the
parameters, of this analysis and of those that it builds on, that are not the defaults; content: the first eight digits
of Run.content; code names its code."""

METRICS = pa.schema(
    [
        *KEYS,
        ("analysis", pa.string()),
        ("rule", pa.string()),
        ("condition", pa.string()),
        ("metric", pa.string()),
        ("position", pa.string()),
        ("layer", pa.string()),
        ("value", pa.float64()),
    ]
)
"""One row per example and number that an analysis found of it. rule: null where the number hangs on no label."""

LABELS = pa.schema(
    [*KEYS, ("rule", pa.string()), ("condition", pa.string()), ("label", pa.string()), ("score", pa.float64())]
)
"""One row per example and label rule: `right`, `wrong` or `unparsed`, and the score from 0 to 1, null if unparsed."""

RANKINGS = pa.schema(
    [
        ("run", pa.string()),
        ("rule", pa.string()),
        ("condition", pa.string()),
        ("ranking", pa.string()),
        ("site", pa.string()),
        ("layer", pa.string()),
        ("neuron", pa.int32()),
        ("rank", pa.int32()),
        ("score", pa.float64()),
    ]
)
"""One row per ranking and neuron, a coordinate of a site: `resid` is the residual stream after the layer's block,
`mlp_out` and `attn_out` what its halves wrote. rank counts from 1."""

INTERVENTIONS = pa.schema(
    [
        ("run", pa.string()),
        ("intervention", pa.string()),
        ("condition", pa.string()),
        ("kind", pa.string()),
        ("set", pa.string()),
        ("member", pa.int32()),
        ("ranking", pa.string()),
        ("rule", pa.string()),
        ("site", pa.string()),
        ("layer", pa.string()),
        ("head", pa.int32()),
        ("mode", pa.string()),
        ("positions", pa.string()),
        ("k", pa.int32()),
        ("share", pa.float64()),
        (
            "edits",
            pa.list_(
                pa.struct(
                    [
                        ("site", pa.string()),
                        ("layer", pa.string()),
                        ("neurons", pa.list_(pa.int32())),
                        ("values", pa.list_(pa.float32())),
                    ]
                )
            ),
        ),
        ("pairs", pa.list_(pa.struct([("example", pa.string()), ("donor", pa.string())]))),
        ("seed", pa.int64()),
        ("answer_tokens", pa.int32()),
        ("examples", pa.list_(pa.string())),
        ("settings", pa.string()),
    ]
)
"""One row per condition of an intervention: one way in which the model or the image is not as it was. The same
condition may belong to several interventions. kind: `none` (nothing is changed: what the others are compared with),
`ablate`, `heads`, `bypass`, `patch` or `mask`. set: what it is among its intervention's conditions, as `top` or
`control`; member: which of several that differ by chance, from 0. layer: a label of the arrays'. k: how many neurons or
patches, share: of how many there are, where it was asked so. edits: coordinates that are set, and to what; pairs: the
example whose activations take the place of another's. examples: ids of those that the intervention asks about, in the
row of `none`; other interventions may have outcomes of more. settings: the request, as JSON."""

OUTCOMES = pa.schema(
    [
        *KEYS,
        ("intervention", pa.string()),
        ("condition", pa.string()),
        ("route", pa.string()),
        ("answer", pa.string()),
        ("answer_tokens", pa.int32()),
        ("token_ids", pa.list_(pa.int32())),
        ("finish", pa.string()),
        ("first_log_prob", pa.float32()),
        ("first_gap", pa.float32()),
        ("first_logit", pa.float32()),
        ("gold_logit", pa.float32()),
        ("margin", pa.float32()),
        ("yes_minus_no", pa.float32()),
        ("labels", pa.list_(pa.struct([("rule", pa.string()), ("label", pa.string())]))),
    ]
)
"""What the model said of one example under one condition, columns as in ANSWERS. route: the way it was found,
`algebra`, `suffix` or `full`. first_logit: of the first token that was taken; gold_logit: the largest of the gold
answer's spellings, margin: that less the largest other, yes_minus_no: the largest spelling of yes less that of no; null
where there is no spelling. labels: of the answer under every label rule that can compare with the gold answer: `right`,
`wrong` or `unparsed`."""

FINDINGS = {
    "results": RESULTS,
    "metrics": METRICS,
    "labels": LABELS,
    "rankings": RANKINGS,
    "interventions": INTERVENTIONS,
    "outcomes": OUTCOMES,
}
"""The tables that analyses and interventions write."""


def to_parquet(
    rows: Sequence[Mapping[str, Any]], schema: pa.Schema, metadata: Mapping[str, str] | None = None
) -> bytes:
    """Rows as one sealed Parquet file; a column that a row lacks becomes null, an unknown one is an error."""
    unknown = {name for row in rows for name in row} - set(schema.names)
    if unknown:
        raise ValueError(f"columns {sorted(unknown)} are not in the schema, which has {schema.names}")
    return encode(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), metadata)


def encode(table: pa.Table, metadata: Mapping[str, str] | None = None) -> bytes:
    """A table as one sealed Parquet file. metadata: key-value pairs of its footer."""
    buffer = io.BytesIO()
    # A reader that skips row groups by statistics must be able to trust them; the seal covers what it did not fetch.
    with pq.ParquetWriter(buffer, table.schema, write_statistics=False, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({**(metadata or {}), seals.KEY: seals.BLANK})
    return seals.sealed(buffer.getvalue())


def decode(content: bytes, schema: pa.Schema, where: str) -> tuple[pa.Table, dict[str, str]]:
    """The rows of a sealed Parquet file and the key-value pairs of its footer. where: names it.

    Raises DamagedError if it is not as it was written, or has other columns.
    """
    if not seals.is_whole(content):
        raise DamagedError(f"{where} is damaged: its checksum does not hold")
    try:
        file = pq.ParquetFile(io.BytesIO(content), pre_buffer=False)
        _require_bounded(file.metadata, len(content))
        # A process that ends while pyarrow still starts its threads is aborted; a commit has nothing for them to do.
        table = file.read(use_threads=False)
        table.validate(full=True)
        pairs = {key.decode(): value.decode() for key, value in (file.metadata.metadata or {}).items()}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedError(f"{where} is damaged: {(str(error) or type(error).__name__).splitlines()[0]}") from error
    if not table.schema.equals(schema):
        raise DamagedError(f"{where} has the columns {table.schema.names}, expected {schema.names} of the known types")
    # The footer's pairs and Parquet's names of nested fields would otherwise go along into the next file of these rows.
    return table.cast(schema), pairs


def _require_bounded(told: pq.FileMetaData, size: int) -> None:
    """Raises ValueError for more rows or bytes than a file of this size holds when vlmlake writes it."""
    unpacked = [told.row_group(number).total_byte_size for number in range(told.num_row_groups)]
    if not 0 <= told.num_rows <= ROWS_A_BYTE * size:
        raise ValueError(f"it says that {size} bytes are {told.num_rows} rows")
    if min(unpacked, default=0) < 0 or sum(unpacked) > min(MOST_BYTES, LARGEST_RATIO * size + ALWAYS_BYTES):
        raise ValueError(f"it says that its {size} bytes are {sum(unpacked)} unpacked")


def footer(storage: Storage, path: str) -> dict[str, str]:
    """The key-value pairs of a Parquet file's footer, without a look at its rows or its seal.

    Raises FileNotFoundError if it is not there, DamagedError if its end is no footer.
    """
    size = storage.length(path)
    end = storage.read_span(path, max(0, size - FOOTER), size)
    needed = int.from_bytes(end[-8:-4], "little") + 8
    if len(end) < needed <= size:
        end = storage.read_span(path, size - needed, size)
    try:
        told = pq.read_metadata(io.BytesIO(end)).metadata or {}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedError(f"{path} of {storage.url} is damaged: it ends in no Parquet footer") from error
    return {key.decode(): value.decode(errors="replace") for key, value in told.items() if key != ARROW_SCHEMA}


def footers(storage: Storage, paths: Sequence[str]) -> list[dict[str, str]]:
    """`footer` of several files, asked for together.

    Raises DamagedError if one is missing, or its end is no footer.
    """
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda path: footer(storage, path), paths))
    except FileNotFoundError as error:
        raise DamagedError(f"a table of {storage.url} went away while it was read: {error}") from error


def read(storage: Storage, paths: Sequence[str], schema: pa.Schema) -> pa.Table:
    """The rows of several tables together, in the order of `paths`.

    Raises DamagedError if one is damaged or missing.
    """
    try:
        contents = storage.read_all(paths)
    except FileNotFoundError as error:
        gone = next((path for path in paths if not storage.exists(path)), paths[0])
        raise DamagedError(f"{gone} of {storage.url} is missing") from error
    found = [
        decode(content, schema, f"{path} of {storage.url}")[0] for path, content in zip(paths, contents, strict=True)
    ]
    return pa.concat_tables([schema.empty_table(), *found])


def frame(table: pa.Table) -> pl.DataFrame:
    """The same rows as Polars has them."""
    rows = pl.from_arrow(table)
    assert isinstance(rows, pl.DataFrame)
    return rows


def sample_rows(batches: pl.DataFrame) -> pl.DataFrame:
    """Rows of SAMPLES out of rows of BATCH."""
    listed = batches.select("run", "example", "samples").filter(pl.col("samples").list.len() > 0)
    if listed.is_empty():
        return frame(SAMPLES.empty_table())
    return listed.explode("samples").unnest("samples")
