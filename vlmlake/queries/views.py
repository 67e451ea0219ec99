"""Views and macros over the tables of a connection, in SQL."""

from __future__ import annotations

from collections import Counter

import polars as pl
import pyarrow as pa

SAMPLES = """
CREATE TEMP VIEW samples AS
SELECT run, example, unnest(sample) FROM (SELECT run, example, unnest(samples) AS sample FROM batches)
"""

LAYER_NUMBER = """
CREATE TEMP MACRO layer_number(layer) AS
CASE WHEN layer = 'embed' THEN -1 ELSE TRY_CAST(replace(layer, 'block_', '') AS INTEGER) END
"""
"""-1 for `embed`, n for `block_n`: what to order layers by."""

MARGINS = (
    "margin_gold",
    "margin_pred",
    "rank_gold",
    "yes_minus_no",
    "lens_entropy",
    "lens_log_prob_gold",
    "margin_gold_blank",
    "image_effect",
)
"""Numbers of the analysis `margins` that every layer has."""


def margins_view() -> str:
    """`margins`: a row per example, condition and layer, a column per number."""
    columns = ", ".join(_column("metric", name, name) for name in MARGINS)
    return (
        f"CREATE TEMP VIEW margins AS SELECT run, example, condition, layer, {columns} FROM metrics "  # noqa: S608
        "WHERE analysis = 'margins' AND layer IS NOT NULL GROUP BY ALL"
    )


def metrics_wide_view(metrics: pa.Table) -> str:
    """`metrics_wide`: a row per example, rule, condition, position and layer, a column per metric that is there.

    A metric that several analyses have is `analysis_metric`.
    """
    pairs = pl.DataFrame(metrics.select(["analysis", "metric"])).unique().sort("metric", "analysis").rows()
    often = Counter(metric for _, metric in pairs)
    columns = [
        _column(
            "analysis || '/' || metric",
            f"{analysis}/{metric}",
            metric if often[metric] == 1 else f"{analysis}_{metric}",
        )
        for analysis, metric in pairs
    ]
    keys = "run, example, rule, condition, position, layer"
    return f"CREATE TEMP VIEW metrics_wide AS SELECT {', '.join([keys, *columns])} FROM metrics GROUP BY ALL"  # noqa: S608


def _column(what: str, name: str, column: str) -> str:
    quoted, named = name.replace("'", "''"), column.replace('"', '""')
    return f"max(value) FILTER ({what} = '{quoted}') AS \"{named}\""
