"""Every question of the shelf against the same numbers by other means, on a lake with unparsed answers, and findings
under other rules and conditions beside those that are asked for.
"""

from __future__ import annotations

import re
import shutil

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from sklearn.metrics import roc_auc_score

from vlmlake import open_lake
from vlmlake.answers.rules import correctness
from vlmlake.errors import VlmlakeError
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.extract import extract
from vlmlake.ingest.job import Job
from vlmlake.ingest.model_source import ModelSource
from vlmlake.queries import Session, run_query, shelf
from vlmlake.queries.shelf import TYPES, Parameter, named_values, shelf_query
from vlmlake.queries.shelf_answers import ask_shelf, bound
from vlmlake.store_schema import paths, tables
from vlmlake.store_schema.capture_plan import read_plan

PAIR = ["run", "image_sha256", "question"]
ODD = "split = 'odd'"


@pytest.fixture(scope="module")
def url(lake_url, tmp_path_factory):
    """The shared lake with some answers unparsed, and misleading findings under another rule and another condition."""
    folder = tmp_path_factory.mktemp("shelf") / "lake"
    shutil.copytree(lake_url, folder)
    lake = open_lake(str(folder))
    (run,) = lake.runs
    (file,) = folder.glob("labels/labels/*/*.parquet")
    pairs = lake.table("labels").join(lake.table("examples"), on=["run", "example"])
    odd = pl.concat_str("image_sha256", "question").hash(3) % 7 == 0
    labels = pairs.with_columns(
        label=pl.when(odd).then(pl.lit("unparsed")).otherwise("label"), score=pl.when(~odd).then("score")
    ).select(tables.LABELS.names)
    assert {"right", "wrong", "unparsed"} == set(labels["label"])
    misleading = pl.concat(
        [
            labels.with_columns(condition=pl.lit(ODD), label=pl.lit("wrong")),
            labels.with_columns(rule=pl.lit("exact"), label=pl.lit("wrong")),
        ]
    )
    metrics = lake.table("metrics").with_columns(condition=pl.lit(ODD), value=pl.lit(1e6))
    file.write_bytes(tables.encode(labels.to_arrow().cast(tables.LABELS)))
    for table, rows in (("labels", misleading), ("metrics", metrics)):
        content = tables.encode(rows.to_arrow().cast(tables.FINDINGS[table]))
        lake.storage.write(paths.finding(table, "labels", run, "misleading"), content)
    return str(folder)


@pytest.fixture(scope="module")
def labelled(url):
    """A row per (image, question) pair and split that asks it: examples, answers and labels."""
    lake = open_lake(url)
    labels = lake.table("labels").filter(pl.col("condition").is_null(), rule="pope_official").drop("rule", "condition")
    return (
        lake.table("examples")
        .join(labels, on=["run", "example"])
        .join(lake.table("answers"), on=["run", "example"])
        .sort("example")
    )


def once(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.unique(PAIR, keep="first", maintain_order=True)


def metric(url, name, **more):
    rows = open_lake(url).table("metrics").filter(pl.col("condition").is_null(), metric=name, **more)
    return rows.select("run", "example", "layer", "value")


def by_split(labelled):
    yield "all", once(labelled)
    for split in sorted(set(labelled["split"])):
        yield split, once(labelled.filter(split=split))


def test_accuracy(url, labelled):
    found = run_query(url, "accuracy", {"rule": "pope_official"}).to_pylist()
    assert [row["split"] for row in found] == ["all", "adversarial", "popular", "random"]
    for row, (split, rows) in zip(found, by_split(labelled), strict=True):
        counts = {label: (rows["label"] == label).sum() for label in ("right", "wrong", "unparsed")}
        assert (row["split"], row["rule"], row["n"]) == (split, "pope_official", len(rows))
        assert {label: row[f"n_{label}"] for label in counts} == counts
        assert min(counts.values()) > 0
        assert row["n_images"] == rows["image_sha256"].n_unique()
        assert row["accuracy"] == pytest.approx(counts["right"] / (counts["right"] + counts["wrong"]))
    assert found[0]["n"] < sum(row["n"] for row in found[1:])
    every = run_query(url, "accuracy").to_pylist()
    assert {row["rule"] for row in every} == {"pope_official", "exact"}
    assert [row for row in every if row["rule"] == "pope_official"] == found
    under = run_query(url, "accuracy", {"condition": ODD, "run": "tiny-llava"}).to_pylist()
    assert {row["accuracy"] for row in under} == {0.0}


def test_accuracy_is_that_of_the_analysis(lake_url):
    told = open_lake(lake_url).table("results").filter(analysis="labels", metric="accuracy").sort("split")
    found = run_query(lake_url, "accuracy").to_pylist()
    ours = {row["split"]: (row["n_right"] + row["n_wrong"], row["accuracy"]) for row in found}
    assert len(ours) == 4
    for split, n, value in told.select("split", "n", "value").iter_rows():
        assert ours[split] == (n, pytest.approx(value))


@pytest.mark.parametrize("split", [None, "popular"])
def test_confident_errors(url, labelled, split):
    asked = labelled if split is None else labelled.filter(split=split)
    wrong = asked.filter(label="wrong")
    expected = once(wrong).sort("first_log_prob", "example", descending=[True, False]).head(5)
    splits = wrong.group_by(PAIR).agg(pl.col("split").unique().sort().str.join(", "))
    found = run_query(url, "confident-errors", {"limit": 5, "split": split}).to_pylist()
    assert [row["example"] for row in found] == expected["example"].to_list()
    assert np.allclose([row["probability"] for row in found], np.exp(expected["first_log_prob"].to_numpy()))
    assert [row["gap"] for row in found] == expected["first_gap"].to_list()
    assert [row["splits"] for row in found] == [
        splits.row(by_predicate=pl.all_horizontal(pl.col(name) == row[name] for name in PAIR), named=True)["split"]
        for row in expected.to_dicts()
    ]
    assert all(row["answer"].strip().lower() != row["gold"] for row in found)


def curves(url, labelled, values):
    """Mean of values by layer and label, and how many they are."""
    rows = once(labelled).join(values, on=["run", "example"])
    cells = rows.group_by("layer", "label").agg(pl.col("value").mean(), pl.len().alias("n"))
    return {
        (layer, label): (value, n) for layer, label, value, n in cells.select("layer", "label", "value", "n").rows()
    }


def same_curves(found, expected, layers):
    assert [row["layer"] for row in found] == layers
    for row in found:
        for label in ("right", "wrong", "unparsed"):
            value, n = expected[row["layer"], label]
            assert (row[f"mean_{label}"], row[f"n_{label}"]) == (pytest.approx(value), n)
        assert row["difference"] == pytest.approx(row["mean_right"] - row["mean_wrong"])


@pytest.mark.parametrize("position", ["answer", "prompt_last"])
def test_image_attention(url, labelled, position):
    values = metric(url, "image_mass", position=position)
    found = run_query(url, "image-attention", {"position": position}).to_pylist()
    same_curves(found, curves(url, labelled, values), [f"block_{number}" for number in range(4)])


@pytest.mark.parametrize("name", ["margin_gold", "rank_gold", "lens_entropy"])
def test_margin_curves(url, labelled, name):
    found = run_query(url, "margin-curves", {"metric": name}).to_pylist()
    layers = ["embed", *(f"block_{number}" for number in range(4))]
    same_curves(found, curves(url, labelled, metric(url, name)), layers)


def test_probe_disagreements(url, labelled):
    values = metric(url, "probe_nested", position="prompt_last", rule="pope_official").drop("layer")
    rows = once(labelled.join(values, on=["run", "example"])).with_columns(model=pl.col("first_log_prob").exp())
    apart = rows.filter((pl.col("model") >= 0.6) != (pl.col("value") >= 0.6)).with_columns(
        gap=(pl.col("model") - pl.col("value")).abs()
    )
    expected = apart.sort("gap", "example", descending=[True, False]).head(7)
    found = run_query(url, "probe-disagreements", {"threshold": 0.6, "limit": 7}).to_pylist()
    assert len(found) == 7
    assert [row["example"] for row in found] == expected["example"].to_list()
    assert np.allclose([row["probe"] for row in found], expected["value"].to_numpy())
    assert np.allclose([row["probability"] for row in found], expected["model"].to_numpy())
    assert [row["label"] for row in found] == expected["label"].to_list()


def test_self_consistency(url, labelled):
    values = metric(url, "self_consistency").drop("layer")
    found = run_query(url, "self-consistency").to_pylist()
    assert len(found) == 4
    for row, (split, rows) in zip(found, by_split(labelled), strict=True):
        rows = rows.join(values, on=["run", "example"])
        told = rows.filter(pl.col("label") != "unparsed")
        right, agreement = (told["label"] == "right").to_numpy(), told["value"].to_numpy()
        assert (row["split"], row["n_parsed"], row["n_unparsed"]) == (split, len(told), len(rows) - len(told))
        assert row["accuracy"] == pytest.approx(right.mean())
        assert row["agreement"] == pytest.approx(agreement.mean())
        assert row["agreement_right"] == pytest.approx(agreement[right].mean())
        assert row["agreement_wrong"] == pytest.approx(agreement[~right].mean())
        assert row["unanimous"] == pytest.approx((agreement == 1).mean())
        assert row["accuracy_unanimous"] == pytest.approx(right[agreement == 1].mean())
        assert row["correlation"] == pytest.approx(np.corrcoef(agreement, right)[0, 1])
        assert row["auroc"] == pytest.approx(roc_auc_score(right, agreement))


def test_self_consistency_is_that_of_the_analysis(lake_url):
    told = open_lake(lake_url).table("results").filter(analysis="consistency", metric="self_consistency")
    found = {row["split"]: row for row in run_query(lake_url, "self-consistency").to_pylist()}
    for column, statistic in (("auroc", "auroc"), ("correlation", "point_biserial")):
        rows = told.filter(statistic=statistic)
        assert len(rows) == 4
        assert all(
            found[split][column] == pytest.approx(value) for split, value in rows.select("split", "value").rows()
        )


@pytest.mark.parametrize(("split", "gold"), [(None, None), ("random", None), (None, "no")])
def test_drops(url, split, gold):
    lake = open_lake(url)
    examples, outcomes = lake.table("examples").sort("example"), lake.table("outcomes")
    kept = {name: value for name, value in (("split", split), ("gold", gold)) if value}
    asked = once(examples.filter(**kept))
    given = {"gold": gold, **({"split": split} if split else {})}
    found = run_query(url, "drops", given).to_pylist()

    def right(condition):
        rows = asked.join(outcomes.filter(condition=condition), on=["run", "example"], maintain_order="left")
        return correctness(rows["answer"].to_list(), rows["gold"].to_list()) == 1

    for changed, size, none in (("top", 5, "a-none"), ("bottom", 1, "a-none"), ("high", 0.3, "m-none")):
        (row,) = [one for one in found if (one["changed"], one["size"], one["statistic"]) == (changed, size, "drop")]
        name = f"a-{changed}-{size}" if none == "a-none" else f"m-{changed}"
        assert row["points"] == pytest.approx(100 * (right(none).mean() - right(name).mean()))
        assert row["low"] <= row["points"] <= row["high"]
        assert row["n"] == len(asked)
    assert any(row["statistic"] == "contrast" for row in found)
    told = lake.table("results").filter(
        pl.col("statistic").is_in(["drop", "contrast"]),
        pl.col("gold").eq_missing(gold),
        analysis="causal",
        split=split or "all",
    )
    assert len(found) == len(told)


def test_leakage(url):
    examples = open_lake(url).table("examples")
    found = {(row["first"], row["second"]): row for row in run_query(url, "leakage").to_pylist()}
    assert len(found) == 3
    for (first, second), row in found.items():
        images, questions = [], []
        for side in (first, second):
            own = examples.filter(dataset=side.split("/")[0], split=side.split("/")[1])
            images.append(set(own["image_sha256"]))
            questions.append(set(own.select("image_sha256", "question").rows()))
        assert (row["first_images"], row["second_images"]) == (len(images[0]), len(images[1]))
        assert (row["first_questions"], row["second_questions"]) == (len(questions[0]), len(questions[1]))
        assert row["shared_images"] == len(images[0] & images[1]) == 40
        assert row["shared_questions"] == len(questions[0] & questions[1]) > 0


def surest(labelled):
    wrong = labelled.with_columns(wrong=pl.col("label") == "wrong")
    return wrong.sort("wrong", "first_log_prob", "example", descending=[True, True, False])["example"][0]


@pytest.mark.parametrize(
    ("layer", "position", "example"),
    [(None, "prompt_last", None), ("block_1", "answer_0", "shapes_pope/random/3"), ("block_0", "prompt_last", None)],
)
def test_neighbours(url, labelled, layer, position, example):
    lake = open_lake(url)
    data = lake[lake.runs[0]]
    pairs = once(labelled)
    states = data["readout_states"].sel(layer=layer or "block_3", position=position, example=pairs["example"].to_list())
    states = states.values.astype(np.float64)
    asked = labelled.filter(example=example or surest(labelled))
    own = pairs["example"].to_list().index(pairs.join(asked.select(PAIR), on=PAIR)["example"][0])
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    similarity = unit @ unit[own]
    similarity[own] = -2
    nearest = np.argsort(-similarity, kind="stable")[:6]
    given = {"layer": layer, "position": position, "example": example, "limit": 6}
    found = run_query(url, "neighbours", given).to_pylist()
    assert [row["rank"] for row in found] == [1, 2, 3, 4, 5, 6]
    assert {(row["example"], row["layer"]) for row in found} == {(asked["example"][0], layer or "block_3")}
    assert np.allclose([row["similarity"] for row in found], similarity[nearest])
    assert [row["neighbour"] for row in found] == pairs["example"].gather(nearest).to_list()
    assert [row["label"] for row in found] == pairs["label"].gather(nearest).to_list()
    same = pairs["image_sha256"].gather(nearest) == asked["image_sha256"][0]
    assert [row["same_image"] for row in found] == same.to_list()


@pytest.mark.parametrize(
    ("layer", "head", "example"),
    [(None, None, None), ("block_1", 0, "shapes_pope/popular/17"), ("block_0", 1, None)],
)
def test_attended_tokens(url, labelled, layer, head, example):
    lake = open_lake(url)
    run = lake.run(lake.runs[0])
    asked = example or surest(labelled)
    one = run.dataset().sel(example=asked)
    before, after = int(one["prefix_tokens"]), int(one["suffix_tokens"]) + int(one["answer_tokens"])
    rows = one["attention"].sel(layer=layer or "block_3").isel(query=int(one["suffix_tokens"]) - 1).values
    rows = np.concatenate([rows[:, :before], rows[:, run.record.extents.prefix_tokens :][:, :after]], axis=1)
    shares = np.nan_to_num(rows.mean(axis=0) if head is None else rows[head])
    texts = run.tokens(asked)
    most = np.argsort(-shares, kind="stable")[:8]
    given = {"layer": layer, "head": head, "example": example, "limit": 8}
    found = run_query(url, "attended-tokens", given).to_pylist()
    assert {row["example"] for row in found} == {asked}
    assert np.allclose([row["share"] for row in found], shares[most], rtol=1e-5)
    assert [row["token"] for row in found] == most.tolist()
    for row in found:
        told = texts.row(row["token"], named=True)
        assert {name: row[name] for name in ("text", "role", "image_row", "image_column")} == {
            name: told[name] for name in ("text", "role", "image_row", "image_column")
        }


@pytest.fixture(scope="module")
def two(tiny_llava, scenes, tmp_path_factory):
    """Runs of two families, of which the second keeps two layers only, labelled."""
    from vlmlake.analysis.analyze import analyze

    folder = tmp_path_factory.mktemp("two")
    (folder / "two.toml").write_text(
        'arrays = ["readout_states", "attention"]\nlayers = ["block_0", "block_1"]\npositions = ["prompt_last"]\n'
    )
    url = str(folder / "lake")
    for model, plan in (("tiny-llava", "suffix"), ("tiny-paligemma", str(folder / "two.toml"))):
        source = ModelSource(str(tiny_llava.parent / model))
        extract(
            Job(source, (f"pope:{scenes}",), url, plan=read_plan(plan, None, False), decoding=Decoding(answer_tokens=1))
        )
    analyze(url, ["labels"])
    return url


@pytest.mark.parametrize("name", ["neighbours", "attended-tokens"])
def test_of_each_run_its_own_last_layer_is_read_and_no_other(two, name):
    query = shelf_query(name)
    with Session.at(two) as session:
        answer = ask_shelf(session, query, {})
        scans = session.explain(query.sql, bound(session, query, {}))
        apart = [ask_shelf(session, query, {"run": model}) for model in ("tiny-llava", "tiny-paligemma")]
    rows = answer.table.to_pylist()
    assert {(row["run"].rpartition("-")[0], row["layer"]) for row in rows} == {
        ("tiny-llava", "block_3"),
        ("tiny-paligemma", "block_1"),
    }
    assert rows == [row for one in apart for row in one.table.to_pylist()]
    assert answer.table.num_rows == 20
    array = {"neighbours": "readout_states", "attended-tokens": "attention"}[name]
    (read,) = (scan for scan in scans if scan.relation == array)
    assert read.chunks in [scan.chunks for scan in answer.scans if scan.relation == array]
    assert 0 < read.chunks <= read.chunks_there / 3


@pytest.mark.parametrize("name", ["accuracy", "confident-errors", "leakage"])
def test_an_answer_for_all_runs_is_those_for_each(two, name):
    runs = open_lake(two).runs
    assert len(runs) == 2
    apart = [run_query(two, name, {"run": run}).to_pylist() for run in runs]
    assert all(apart)
    assert run_query(two, name).to_pylist() == [row for rows in apart for row in rows]
    assert run_query(two, name, runs=[runs[1]]).to_pylist() == apart[1]


@pytest.mark.parametrize("query", shelf(), ids=lambda query: query.name)
def test_every_question_is_whole(query, url):
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", query.name)
    assert query.title
    assert query.sentence.endswith(".")
    assert query.example.startswith(f"vlmlake query {query.name} ./lake")
    assert set(re.findall(r"\$(\w+)", query.sql)) == {parameter.name for parameter in query.parameters}
    assert "run" in {parameter.name for parameter in query.parameters}
    assert query.bind({}).keys() == {parameter.name for parameter in query.parameters}
    assert all(one.type in TYPES or "|" in one.type for one in query.parameters)
    given = {"threshold": "0.6"} if query.name == "probe-disagreements" else {}
    found = run_query(url, query.name, given)
    assert found.num_rows > 0
    of_run = run_query(url, query.name, {"run": "tiny-llava", **given})
    assert_frame_equal(pl.from_arrow(of_run), pl.from_arrow(found))


def test_there_are_ten():
    assert len(shelf()) == 10


UNFIT = {
    "question unknown": ("acuracy", {}, "no query named acuracy on the shelf: did you mean accuracy"),
    "parameter unknown": ("leakage", {"rule": "exact"}, "leakage has no parameter rule: expected one of run"),
    "count of nothing": ("neighbours", {"limit": 0}, "parameter limit is '0', expected a whole number from 1"),
    "count of a part": ("neighbours", {"limit": 1.5}, "parameter limit is '1.5', expected a whole number"),
    "number of letters": ("probe-disagreements", {"threshold": "half"}, "threshold is 'half', expected a number"),
    "rule unknown": ("accuracy", {"rule": "fuzzy"}, "unknown label rule fuzzy: expected one of pope_official"),
    "rule left open": ("drops", {"rule": None}, "unknown label rule null"),
    "choice unknown": (
        "margin-curves",
        {"metric": "margin"},
        "metric is 'margin', expected one of margin_gold, margin",
    ),
    "layer misspelt": ("neighbours", {"layer": "3"}, "layer is '3', expected embed or block_N, or null"),
    "layer not kept": ("neighbours", {"layer": "block_9"}, "no layer block_9 is kept by tiny-llava-"),
    "position misspelt": ("neighbours", {"position": "last"}, "position is 'last', expected prompt_last or answer_N"),
    "run unknown": ("accuracy", {"run": "llava"}, "no single run named llava: there are tiny-llava-"),
    "split unknown": (
        "drops",
        {"split": "odd"},
        "no split odd in the lake: expected one of adversarial, popular, rand",
    ),
    "example unknown": ("neighbours", {"example": "e'1"}, "no example e'1 in the lake"),
    "rule never applied": (
        "image-attention",
        {"rule": "yes_xor_no"},
        "needs labels under the rule yes_xor_no, and there are none: "
        "run `vlmlake analyze URL labels --rule yes_xor_no`",
    ),
    "condition never asked": (
        "margin-curves",
        {"condition": "split = 'x'"},
        "needs metrics of margins under the condition split = 'x', and there are none: "
        "run `vlmlake analyze URL margins --where \"split = 'x'\"`",
    ),
}


@pytest.mark.parametrize(("name", "given", "message"), UNFIT.values(), ids=UNFIT.keys())
def test_what_cannot_be_asked_is_refused(url, name, given, message):
    with pytest.raises(VlmlakeError, match=re.escape(message)):
        run_query(url, name, given)


@pytest.mark.parametrize(
    ("name", "analysis"),
    [
        ("image-attention", "metrics of attention"),
        ("margin-curves", "metrics of margins"),
        ("probe-disagreements", "metrics of probes"),
        ("self-consistency", "metrics of consistency"),
        ("drops", "results of causal"),
    ],
)
def test_an_analysis_that_was_never_run_is_named(two, name, analysis):
    table, of = analysis.split(" of ")
    with pytest.raises(VlmlakeError, match=f"{name} needs {table} of {of}, .*run `vlmlake analyze URL {of}`"):
        run_query(two, name)


def test_a_run_that_was_not_labelled_is_named(two, tmp_path):
    shutil.copytree(two, tmp_path / "lake")
    gone, kept = open_lake(two).runs
    shutil.rmtree(tmp_path / "lake" / "labels" / "labels" / gone)
    message = f"needs labels of the run {gone}, and there are none: run `vlmlake analyze URL labels --run {gone}`"
    with pytest.raises(VlmlakeError, match=re.escape(message)):
        run_query(str(tmp_path / "lake"), "accuracy", {"run": "tiny-llava"})
    assert set(run_query(str(tmp_path / "lake"), "accuracy")["run"].to_pylist()) == {kept}
    surest = run_query(str(tmp_path / "lake"), "neighbours", {"limit": 1}).to_pylist()
    assert [(row["run"], row["label"] is None) for row in surest] == [(gone, True), (kept, False)]


def test_a_default_can_be_given_and_null_is_it():
    limit = Parameter("limit", "count", "10", "rows")
    assert [limit.value("10"), limit.value("007")] == [10, 7]
    run = Parameter("run", "run", "null", "one run")
    assert [run.value("null"), run.value("tiny")] == [None, "tiny"]
    assert Parameter("x", "number", "0.5", "a share").value("-1e-2") == -0.01


def test_names_and_values():
    assert named_values(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    with pytest.raises(VlmlakeError, match="parameter 'a' is not of the form NAME=VALUE"):
        named_values(["a"])
    with pytest.raises(VlmlakeError, match="parameter a is given twice"):
        named_values(["a=1", "a=2"])
