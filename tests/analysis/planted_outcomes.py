"""Made-up interventions: tables whose outcomes follow a known law, and a lake that holds some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import xarray as xr

from vlmlake.answers.rules import correctness
from vlmlake.store_schema import paths, tables
from vlmlake.store_schema.lake import open_lake

OPPOSITE = {"yes": "no", "no": "yes"}
ABLATE = {"kind": "ablate", "site": "resid", "layer": "block_1", "mode": "mean", "positions": "all"}
TOP = {**ABLATE, "set": "top", "ranking": "l1", "rule": "pope_official"}
MASK = {"kind": "mask", "layer": "block_2", "share": 0.3}
NONE = {"kind": "none", "set": "none"}


def planted_questions(images: int, questions: int = 1, splits: Sequence[str] = ("random",)) -> xr.Dataset:
    """A run of distinct (image, question) pairs, answers right, gold answers yes and no by turns of two."""
    n = images * questions
    image = np.repeat(np.arange(images), questions)
    gold = np.where(np.arange(n) // 2 % 2, "no", "yes").astype(object)
    return xr.Dataset(
        coords={
            "example": [f"planted/{number}" for number in range(n)],
            "layer": ["embed", "block_0", "block_1", "block_2"],
            "row": ("example", np.arange(n)),
            "dataset": ("example", ["planted"] * n),
            "split": ("example", np.array(splits, object)[np.arange(n) % len(splits)]),
            "image_sha256": ("example", [f"{number:064x}" for number in image]),
            "question": ("example", [f"question {number % questions}" for number in range(n)]),
            "gold": ("example", gold),
            "answer": ("example", gold.copy()),
        },
        attrs={"run": "planted-00000000"},
    )


def spec(conditions: Mapping[str, Mapping[str, Any]], intervention: str = "made", run: str = "planted-00000000") -> Any:
    """Rows of tables.INTERVENTIONS. conditions: columns by the condition's id."""
    rows = [
        {"run": run, "intervention": intervention, "condition": name, **columns} for name, columns in conditions.items()
    ]
    return tables.frame(pa.Table.from_pylist(rows, schema=tables.INTERVENTIONS))


def outcomes(
    data: xr.Dataset,
    right: Mapping[str, np.ndarray],
    margins: Mapping[str, np.ndarray] | None = None,
    intervention: str = "made",
) -> pl.DataFrame:
    """Rows of tables.OUTCOMES. right: by condition, [n] of true and false, or of answers as they were given."""
    rows = []
    for condition, column in right.items():
        for number, value in enumerate(column):
            gold = data["gold"].values[number]
            margin = None if margins is None else margins[condition][number]
            rows.append(
                {
                    "run": data.attrs["run"],
                    "example": data["example"].values[number],
                    "intervention": intervention,
                    "condition": condition,
                    "answer": value if isinstance(value, str) else gold if value else OPPOSITE[gold],
                    "margin": margin,
                }
            )
    return tables.frame(pa.Table.from_pylist(rows, schema=tables.OUTCOMES))


def plant(url: str, seed: int = 0) -> None:
    """Put an ablation whose top neurons matter and a mask into a lake's only run."""
    lake = open_lake(url)
    run = lake.run(lake.runs[0])
    data = run.dataset()
    rng = np.random.default_rng(seed)
    before = correctness(data["answer"].values, data["gold"].values) == 1
    n = len(before)

    def broken(share: float) -> np.ndarray:
        return before & (rng.random(n) >= share)

    ablation: dict[str, dict[str, Any]] = {"a-none": NONE}
    mask: dict[str, dict[str, Any]] = {
        "m-none": NONE,
        "m-high": {**MASK, "set": "high"},
        "m-low": {**MASK, "set": "low"},
    }
    right = {"a-none": before, "m-none": before, "m-high": broken(0.2), "m-low": broken(0.05)}
    for k, cost in ((1, 0.02), (5, 0.1), (32, 0.3)):
        share = 0.5 if k == 32 else None
        for which, of_it in (("top", cost), ("bottom", 0.0), ("null", 0.01)):
            layer = "block_2" if which == "null" else "block_1"
            ablation[f"a-{which}-{k}"] = {**TOP, "set": which, "layer": layer, "k": k, "share": share}
            right[f"a-{which}-{k}"] = broken(of_it)
        for member in range(20):
            ablation[f"a-control-{k}-{member}"] = {**ABLATE, "set": "control", "k": k, "share": share, "member": member}
            right[f"a-control-{k}-{member}"] = broken(cost / 4)
    for member in range(3):
        mask[f"m-random-{member}"] = {**MASK, "set": "random", "member": member}
        right[f"m-random-{member}"] = broken(0.1)
    margins = {name: rng.normal(2 * column, 0.5) for name, column in right.items()}
    for name, conditions in (("ablation", ablation), ("mask", mask)):
        own = outcomes(data, {one: right[one] for one in conditions}, margins, name)
        write(url, name, spec(conditions, name, run.name), own)


def write(url: str, intervention: str, specs: pl.DataFrame, rows: pl.DataFrame, part: str = "000000") -> None:
    """Both tables of one intervention, as those who run models write them."""
    storage = open_lake(url).storage
    run = specs["run"][0]
    for table, frame, key in (("interventions", specs, "spec"), ("outcomes", rows, part)):
        schema = tables.FINDINGS[table]
        content = tables.encode(frame.to_arrow().cast(schema))
        storage.write(paths.finding(table, intervention, run, key), content)
