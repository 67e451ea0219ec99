"""docs/queries.md asks one question in SQL, Polars and xarray; here that is done, and the answers are the same."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vlmlake import open_lake
from vlmlake.queries import connect, sql
from vlmlake.queries.relations import RELATIONS

PAGE = (Path(__file__).parents[2] / "docs" / "queries.md").read_text().replace("0.9)", "0.5)")
"""At 0.9 the small lake has no wrong answers."""
(QUESTION,) = re.findall(r"```sql\n(.*?)```", PAGE, flags=re.DOTALL)
THREADS, POLARS, XARRAY = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def by_sql(lake_url) -> pl.DataFrame:
    return pl.DataFrame(sql(lake_url, QUESTION))


@pytest.fixture(scope="module")
def told(lake_url) -> dict[str, object]:
    """What the page's Python finds."""
    names: dict[str, object] = {"run": open_lake(lake_url).run("tiny-llava")}
    exec(POLARS + XARRAY, names)
    return names


def test_there_is_something_to_compare(by_sql):
    assert set(by_sql["label"]) == {"right", "wrong"}
    assert set(by_sql["layer"]) == {f"block_{number}" for number in range(4)}
    assert by_sql["examples"].min() >= 3


def test_polars_says_the_same_as_sql(by_sql, told):
    keys = ["layer", "label"]
    both = by_sql.join(told["answer"], on=keys, suffix="_polars", validate="1:1")
    assert both.height == by_sql.height == told["answer"].height
    assert both["examples"].to_list() == both["examples_polars"].to_list()
    np.testing.assert_allclose(both["image_share"], both["image_share_polars"], rtol=1e-5)


def test_xarray_says_the_same_as_sql(by_sql, told):
    for layer, label, _, share in by_sql.iter_rows():
        assert float(told["by_label"].sel(layer=layer, label=label)) == pytest.approx(share, rel=1e-5)


def test_the_pages_table_names_every_relation_and_column(lake_url):
    rows = dict(re.findall(r"^\| `(\w+)` \| (run.*)$", PAGE, flags=re.MULTILINE))
    with connect(lake_url) as connection:
        for relation in RELATIONS:
            columns = connection.sql(f"SELECT * FROM {relation.name} LIMIT 0").columns
            missing = [column for column in columns if not re.search(rf"\b{column}\b", rows[relation.name])]
            assert missing == [], relation.name
    assert set(rows) == {relation.name for relation in RELATIONS}


def test_threads_share_one_reading(lake_url):
    names: dict[str, object] = {}
    exec(THREADS.replace("demo-lake/lake", lake_url), names)
    assert len(names["catalog"].views) == 1
