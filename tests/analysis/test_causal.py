"""Causal: planted outcomes of interventions, what is found in them, and what is refused."""

from __future__ import annotations

import io

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from scipy import stats

from tests.analysis.planted_answers import with_texts
from tests.analysis.planted_outcomes import ABLATE, MASK, NONE, TOP, outcomes, planted_questions, spec, write
from vlmlake import open_lake
from vlmlake.analysis import CausalParameters, causal
from vlmlake.analysis.analyze import analyze
from vlmlake.analysis.causal.described import closest, described
from vlmlake.analysis.study import study
from vlmlake.console.causal import print_causal
from vlmlake.errors import NotKeptError, VlmlakeError

POOLED = {"split": "all", "gold": None}


def found_in(data, conditions, right, margins=None, **asked):
    return causal(data, interventions=spec(conditions), outcomes=outcomes(data, right, margins), **asked)


def one(found, metric, statistic, gold=None, split="all", **more):
    rows = found.rows(metric=metric, statistic=statistic, split=split, **more)
    (row,) = rows.filter(pl.col("gold").eq_missing(gold)).iter_rows(named=True)
    return row


def moved(before, only_before, only_after):
    """Right after: as before, but for so many that were right and so many that were not."""
    after = before.copy()
    after[np.flatnonzero(before)[:only_before]] = False
    after[np.flatnonzero(~before)[:only_after]] = True
    return after


@pytest.fixture(scope="module")
def public():
    """The counts of the authors' public rows, each example with an image of its own."""
    data = planted_questions(1000)
    full = np.arange(1000) < 754
    high = moved(full, 149, 36)
    right = {"n": full, "h": high, "l": moved(full, 80, 31), "r": moved(high, 56, 95)}
    conditions = {
        "n": NONE,
        "h": {**MASK, "set": "high"},
        "l": {**MASK, "set": "low"},
        "r": {**MASK, "set": "random", "member": 0},
    }
    assert [column.sum() for column in right.values()] == [754, 641, 705, 680]
    return found_in(data, conditions, right)


def test_masking_costs_what_the_public_rows_say(public):
    drop = one(public, "high", "drop", at=0.3)
    assert (drop["value"], drop["low"], drop["high"]) == pytest.approx((0.113, 0.087, 0.139), abs=5e-4)
    assert drop["p_value"] == pytest.approx(1.6e-17, rel=0.03)
    assert (drop["n"], drop["n_images"], drop["base_rate"], drop["layer"]) == (1000, 1000, 0.754, "block_2")
    assert drop["note"] == "149 right only before, 36 only after"
    assert one(public, "high", "accuracy_before")["value"] == 0.754
    assert one(public, "high", "accuracy_after")["value"] == 0.641
    assert one(public, "low", "drop")["value"] == pytest.approx(0.049)
    assert one(public, "random", "drop")["value"] == pytest.approx(0.074)


def test_most_of_that_is_what_a_random_mask_costs_too(public):
    """95 right under the random mask only, 56 under HIGH only; the interval also against the normal formula."""
    contrast = one(public, "high_minus_random", "contrast")
    assert (contrast["value"], contrast["low"], contrast["high"]) == pytest.approx((0.039, 0.015, 0.063), abs=2e-3)
    half = 1.96 * np.sqrt((151 / 1000 - 0.039**2) / 1000)
    assert contrast["high"] - contrast["low"] == pytest.approx(2 * half, rel=0.06)
    assert contrast["p_value"] == pytest.approx(stats.binomtest(56, 151, 0.5).pvalue)
    assert "exact McNemar against set 0 alone" in contrast["note"]
    assert contrast["interval"] == "bootstrap of images"


def test_random_sets_are_averaged_per_example_before_anything_else():
    data = planted_questions(300, 2)
    rng = np.random.default_rng(0)
    right = {
        "n": rng.random(600) < 0.9,
        "h": rng.random(600) < 0.6,
        **{f"r{m}": rng.random(600) < 0.8 for m in range(4)},
    }
    conditions = {
        "n": NONE,
        "h": {**MASK, "set": "high"},
        **{f"r{m}": {**MASK, "set": "random", "member": m} for m in range(4)},
    }
    margins = {name: rng.normal(2.0 * column) for name, column in right.items()}
    found = found_in(data, conditions, right, margins)
    share = np.mean([right[f"r{m}"] for m in range(4)], axis=0)
    by_image = (right["n"] - share).reshape(300, 2).sum(axis=1)
    drop = one(found, "random", "drop")
    assert drop["value"] == pytest.approx((right["n"] - share).mean())
    half = stats.t.ppf(0.975, 299) * np.std(by_image, ddof=1) * np.sqrt(300) / 600
    assert (drop["high"] - drop["low"]) / 2 == pytest.approx(half, rel=1e-6)
    assert (drop["p_value"], drop["n_images"]) == (None, 300)
    contrast = one(found, "high_minus_random", "contrast")
    assert contrast["value"] == pytest.approx((share - right["h"]).mean())
    only = (right["r0"] & ~right["h"]).sum(), (right["h"] & ~right["r0"]).sum()
    assert contrast["p_value"] == pytest.approx(stats.binomtest(min(only), sum(only), 0.5).pvalue)
    fall = margins["n"] - np.mean([margins[f"r{m}"] for m in range(4)], axis=0)
    assert one(found, "random", "margin_drop")["value"] == pytest.approx(fall.mean(), rel=1e-5)


def ablation(rng, data, top_cost, control_cost=0.05, controls=40, ks=(5,)):
    before = rng.random(data.sizes["example"]) < 0.85
    conditions, right = {"n": NONE}, {"n": before}
    for k in ks:
        costs = {"top": top_cost, "bottom": 0.0, "null": 0.1, "given": control_cost}
        for which, cost in costs.items():
            conditions[f"{which}{k}"] = {**TOP, "set": which, "k": k}
            right[f"{which}{k}"] = before & (rng.random(len(before)) >= cost)
        for member in range(controls):
            conditions[f"c{k}.{member}"] = {**ABLATE, "set": "control", "k": k, "member": member}
            right[f"c{k}.{member}"] = before & (rng.random(len(before)) >= control_cost)
    return conditions, right


def test_neurons_that_matter_are_first_among_their_controls():
    data = planted_questions(200, 3)
    conditions, right = ablation(np.random.default_rng(1), data, 0.4, ks=(1, 5))
    found = found_in(data, conditions, right)
    drop = one(found, "top", "drop", at=5)
    assert drop["low"] > 0.25
    assert (drop["position"], drop["layer"], drop["head"], drop["intervention"]) == ("all", "block_1", None, "made")
    rank = one(found, "top", "rank_among_controls", at=5)
    assert (rank["value"], rank["p_value"], rank["note"]) == (1, 1 / 41, "of 40 controls")
    assert one(found, "bottom", "rank_among_controls", at=5)["value"] == 41
    assert found.rows(metric="null", statistic="rank_among_controls").is_empty()
    control = one(found, "control", "drop", at=5)
    drops = [(right["n"].sum() - right[f"c5.{member}"].sum()) / 600 for member in range(40)]
    assert control["value"] == pytest.approx(np.mean(drops))
    assert (control["low"], control["high"]) == pytest.approx(tuple(np.quantile(drops, (0.025, 0.975))))
    assert control["interval"] == "2.5 to 97.5 % of 40 controls"
    assert found.controls.filter(k=5)["drop"].to_list() == pytest.approx(drops)
    wanted = 1 + sum(drop >= (right["n"].sum() - right["given5"].sum()) / 600 for drop in drops)
    assert one(found, "given", "rank_among_controls", at=5)["value"] == wanted


def test_controls_that_cost_as_much_count_as_larger():
    data = planted_questions(50)
    before = np.ones(50, bool)
    after = before.copy()
    after[:5] = False
    conditions = {"n": NONE, "t": {**TOP, "set": "top", "k": 2}}
    conditions |= {f"c{m}": {**ABLATE, "set": "control", "k": 2, "member": m} for m in range(3)}
    right = {"n": before, "t": after, "c0": after[::-1], "c1": before, "c2": ~before}
    assert one(found_in(data, conditions, right), "top", "rank_among_controls")["value"] == 3


def test_controls_of_another_layer_number_or_mode_are_no_controls():
    data = planted_questions(50)
    rng = np.random.default_rng(4)
    conditions, right = ablation(rng, data, 0.5, controls=4)
    for name, other in {"layer": {"layer": "block_2"}, "mode": {"mode": "zero"}, "site": {"site": "mlp_out"}}.items():
        for member in range(4):
            conditions[f"{name}{member}"] = {**ABLATE, "set": "control", "k": 5, "member": member, **other}
            right[f"{name}{member}"] = np.zeros(50, bool)
    found = found_in(data, conditions, right)
    assert one(found, "top", "rank_among_controls")["note"] == "of 4 controls"
    assert one(found, "top", "rank_among_controls")["value"] == 1
    (row,) = (
        found.rows(metric="control", layer="block_2", split="all").filter(pl.col("gold").is_null()).rows(named=True)
    )
    assert row["value"] == right["n"].mean()


def test_nothing_is_found_where_nothing_is():
    """Of 60 draws in which the top set costs what a control does about 5 % have p < 0.05, and few intervals miss."""
    rng = np.random.default_rng(2)
    data = planted_questions(60, 2)
    hits, ranks, rejected = 0, [], 0
    for _ in range(60):
        conditions, right = ablation(rng, data, 0.1, control_cost=0.1, controls=19)
        found = found_in(data, conditions, right, parameters=CausalParameters(gold_answers=0))
        drop = one(found, "top", "drop")
        hits += drop["low"] <= 0.85 * 0.1 <= drop["high"]
        rank = one(found, "top", "rank_among_controls")
        ranks.append(rank["value"])
        rejected += rank["p_value"] < 0.051
    assert hits / 60 >= 0.88
    assert rejected <= 8
    assert 8 <= np.mean(ranks) <= 13


def test_a_null_contrast_of_masks_covers_zero():
    rng = np.random.default_rng(3)
    data = planted_questions(50, 3)
    covered, small = 0, 0
    conditions = {"n": NONE, "h": {**MASK, "set": "high"}}
    conditions |= {f"r{m}": {**MASK, "set": "random", "member": m} for m in range(3)}
    for draw in range(60):
        ease = np.repeat(rng.normal(size=50), 3)
        right = {name: ease + rng.normal(size=150) < 0.8 for name in conditions}
        found = found_in(data, conditions, right, seed=draw, parameters=CausalParameters(gold_answers=0))
        contrast = one(found, "high_minus_random", "contrast")
        covered += contrast["low"] <= 0 <= contrast["high"]
        small += contrast["p_value"] < 0.05
    assert covered / 60 >= 0.88
    assert small <= 8


def test_every_cell_has_its_own_n():
    data = planted_questions(60, 4, splits=("random", "popular"))
    before = np.ones(240, bool)
    after = before & (data["gold"].values == "no")
    found = found_in(data, {"n": NONE, "t": {**TOP, "set": "top", "k": 1}}, {"n": before, "t": after})
    counts = {
        (row["split"], row["gold"]): (row["n"], row["value"])
        for row in found.rows(statistic="drop").iter_rows(named=True)
    }
    assert counts == {
        ("all", None): (240, 0.5),
        ("all", "no"): (120, 0.0),
        ("all", "yes"): (120, 1.0),
        **{
            (split, gold): (n, drop)
            for split in ("random", "popular")
            for gold, n, drop in ((None, 120, 0.5), ("no", 60, 0), ("yes", 60, 1))
        },
    }
    few = causal(
        data,
        interventions=spec({"n": NONE, "t": {**TOP, "set": "top", "k": 1}}),
        outcomes=outcomes(data, {"n": before, "t": after}),
        parameters=CausalParameters(gold_answers=1),
    )
    assert few.table["gold"].null_count() == few.table.height


def test_a_pair_that_several_splits_ask_counts_once():
    data = planted_questions(40, splits=("random", "popular"))
    data = with_texts(
        data, image_sha256=[f"{number // 2:064x}" for number in range(40)], question="same", gold="yes", answer="yes"
    )
    found = found_in(
        data,
        {"n": NONE, "b": {"kind": "bypass", "set": "mlp", "layer": "block_0"}},
        {"n": np.ones(40, bool), "b": np.zeros(40, bool)},
    )
    assert {
        row["split"]: row["n"]
        for row in found.rows(metric="mlp", statistic="drop").filter(pl.col("gold").is_null()).rows(named=True)
    } == {
        "all": 20,
        "random": 20,
        "popular": 20,
    }


def test_answers_that_cannot_be_read_are_not_right_and_are_counted():
    data = planted_questions(20)
    before = data["gold"].values.copy()
    before[0] = "perhaps"
    after = data["gold"].values.copy()
    after[:5] = "yes and no"
    found = found_in(
        data, {"n": NONE, "t": {**TOP, "set": "top", "k": 1}}, {"n": before, "t": after}, rule="yes_xor_no"
    )
    drop = one(found, "top", "drop")
    assert (drop["n"], drop["value"]) == (20, pytest.approx(0.2))
    told = "1 unparsed before and 5 after, which count as not right"
    assert drop["note"] == f"4 right only before, 0 only after; {told}"
    assert one(found, "top", "accuracy_after")["note"] == told


def test_duplicates_count_once_and_examples_without_an_outcome_are_left_out():
    data = planted_questions(30)
    conditions = {"n": NONE, "t": {**TOP, "set": "top", "k": 1}, "u": {**TOP, "set": "top", "k": 5}}
    right = {"n": np.ones(30, bool), "t": np.arange(30) >= 15, "u": np.zeros(30, bool)}
    rows = outcomes(data, right)
    part = rows.filter(~((pl.col("condition") == "u") & pl.col("example").is_in(data["example"].values[:10].tolist())))
    again = rows.with_columns(intervention=pl.lit("another"), answer=pl.lit("neither"))
    found = causal(data, interventions=spec(conditions), outcomes=pl.concat([part, again.filter(condition="t"), part]))
    assert (one(found, "top", "drop", at=1)["n"], one(found, "top", "drop", at=1)["value"]) == (30, 0.5)
    late = one(found, "top", "drop", at=5)
    assert (late["n"], late["value"]) == (20, 1.0)
    assert "10 examples without an outcome yet" in late["note"]


def test_a_condition_without_outcomes_says_so_and_its_controls_too():
    data = planted_questions(30)
    conditions, right = ablation(np.random.default_rng(0), data, 0.2, controls=4)
    for name in ("top5", "c5.0"):
        del right[name]
    found = found_in(data, conditions, right)
    assert "no outcomes yet" in one(found, "top", "drop")["note"]
    assert one(found, "top", "drop")["value"] is None
    assert "1 of 4 sets without outcomes yet" in one(found, "control", "drop")["note"]
    assert one(found, "given", "rank_among_controls")["note"] == "of 3 controls"


def test_margins_that_are_not_there_are_left_out():
    data = planted_questions(30)
    right = {"n": np.ones(30, bool), "t": np.ones(30, bool)}
    margins = {"n": np.linspace(1, 2, 30), "t": np.linspace(0, 2, 30)}
    margins["t"][:3] = np.nan
    row = one(found_in(data, {"n": NONE, "t": {**TOP, "set": "top", "k": 1}}, right, margins), "top", "margin_drop")
    assert row["value"] == pytest.approx((margins["n"] - margins["t"])[3:].mean(), rel=1e-5)
    assert (row["n"], row["note"]) == (27, "3 without a margin")


def test_a_condition_may_belong_to_several_interventions():
    data = planted_questions(40)
    rows = outcomes(data, {"n": np.ones(40, bool), "t": np.arange(40) > 9})
    top = {**TOP, "set": "top", "k": 1}
    specs = pl.concat([spec({"n": NONE, "t": top}, "made"), spec({"n": NONE, "t": top}, "later")])
    found = causal(data, interventions=specs, outcomes=rows)
    assert found.rows(statistic="drop", split="all").filter(pl.col("gold").is_null())["value"].to_list() == [0.25, 0.25]
    assert found.table["intervention"].unique(maintain_order=True).to_list() == ["made", "later"]


def test_conditions_that_look_alike_are_told_apart():
    data = planted_questions(40)
    conditions = {"n": NONE, "a": {**TOP, "set": "top", "k": 1}, "b": {**TOP, "set": "top", "k": 1, "ranking": "auroc"}}
    specs = spec(conditions)
    found = found_in(data, conditions, {"n": np.ones(40, bool), "a": np.arange(40) > 9, "b": np.arange(40) > 19})
    drops = found.rows(statistic="drop", split="all").filter(pl.col("gold").is_null())
    assert drops["note"].str.split(";").list.first().to_list() == ["ranking l1", "ranking auroc"]
    told = described(drops, specs)
    assert told.select("ranking", "value").rows() == [("l1", 0.25), ("auroc", 0.5)]
    chosen, words = closest(drops, specs.filter(set="top"))
    assert chosen["value"].to_list() == [0.25]
    assert words == "top l1 resid block_1 mean all, one of 2 that fit"


def patched(data, pairs):
    """Each example's donor is asked of the same image; at block_1 all answers go along, at block_0 none."""
    patch = {"kind": "patch", "site": "resid", "positions": "prompt_last", "pairs": pairs}
    return {
        "n": NONE,
        "all": {**patch, "set": "into_wrong", "layer": "block_1"},
        "no": {**patch, "set": "into_wrong", "layer": "block_0"},
    }


def test_answers_that_follow_their_donor():
    data = planted_questions(40, 2)
    data = with_texts(data, gold="yes", answer="yes")
    ids = data["example"].values
    pairs = [{"example": ids[2 * image], "donor": ids[2 * image + 1]} for image in range(40)]
    before = np.ones(80, bool)
    before[::2] = False
    before[:10:2] = True
    right = {"n": before, "all": np.ones(40, bool), "no": before[::2]}
    part = data.isel(example=slice(0, None, 2))
    rows = pl.concat([outcomes(data, {"n": before}), outcomes(part, {"all": right["all"], "no": right["no"]})])
    for source in (data, part):
        found = causal(source, interventions=spec(patched(data, pairs)), outcomes=rows)
        follows = one(found, "into_wrong", "follows_donor", layer="block_1")
        assert (follows["value"], follows["n"], follows["position"]) == (1.0, 35, "prompt_last")
        assert follows["note"] == "5 whose donor has the same answer left out"
        assert one(found, "into_wrong", "drop", layer="block_1")["value"] == -1
        assert one(found, "into_wrong", "follows_donor", layer="block_0")["value"] == 0
    without = causal(
        data,
        interventions=spec(patched(data, pairs)),
        outcomes=rows.filter(~((pl.col("condition") == "n") & pl.col("example").is_in(ids[1::2].tolist()))),
    )
    assert one(without, "into_wrong", "follows_donor", layer="block_1")["n"] == 35


def test_heads_and_blocks():
    data = planted_questions(40)
    conditions = {"n": NONE, "m": {"kind": "bypass", "set": "mlp", "layer": "block_0"}}
    conditions |= {f"h{head}": {"kind": "heads", "set": "head", "layer": "block_1", "head": head} for head in range(3)}
    right = {"n": np.ones(40, bool), "m": np.zeros(40, bool)}
    right |= {f"h{head}": np.arange(40) >= 4 * head for head in range(3)}
    found = found_in(data, conditions, right)
    assert [one(found, "head", "drop", head=head)["value"] for head in range(3)] == pytest.approx([0, 0.1, 0.2])
    assert one(found, "mlp", "drop")["value"] == 1
    assert (
        found.to_xarray()["head_drop_of_heads"].sel(bound="value", split="all", gold="", head=2, layer="block_1").item()
        == 0.2
    )
    assert found.plot().has_data()


@pytest.mark.parametrize(
    ("conditions", "told"),
    [
        (
            {"t": {**TOP, "set": "top", "k": 1}},
            "intervention made of run planted-00000000 has 0 conditions of kind none",
        ),
        ({"n": NONE, "t": NONE}, "has 2 conditions of kind none, expected one"),
        ({"n": NONE}, "outcomes of the condition t, which is in none of its interventions"),
        (
            {"n": NONE, "t": {**TOP, "set": "high", "k": 1}},
            "condition t is of kind ablate and set high, expected one of",
        ),
        ({"n": NONE, "t": {**TOP, "set": "top"}}, "condition t, of set top, has no k: make the intervention again"),
        ({"n": NONE, "t": {**MASK, "set": "random"}}, "of set random, has no member"),
        (
            {
                "n": NONE,
                "t": {
                    "kind": "patch",
                    "set": "into_right",
                    "layer": "block_0",
                    "pairs": 2 * [{"example": "a", "donor": "b"}],
                },
            },
            "has several donors for one example",
        ),
    ],
)
def test_tables_that_mean_nothing_are_refused(conditions, told):
    data = planted_questions(10)
    with pytest.raises(VlmlakeError, match=told):
        found_in(data, conditions, {"n": np.ones(10, bool), "t": np.ones(10, bool)})


def test_what_is_not_there_is_named():
    data = planted_questions(10)
    with pytest.raises(VlmlakeError, match="comes without the table interventions: give interventions="):
        causal(data)
    with pytest.raises(NotKeptError, match="run planted-00000000 has no interventions: `vlmlake ablate` or"):
        causal(data, interventions=spec({}), outcomes=outcomes(data, {}))
    with pytest.raises(VlmlakeError, match="interventions tell nothing of these examples: no outcomes yet"):
        found_in(data, {"n": NONE, "t": {**TOP, "set": "top", "k": 1}}, {"n": np.ones(10, bool)})
    with pytest.raises(VlmlakeError, match="no labelled examples of split all under the rule vqa_soft"):
        found_in(data, {"n": NONE}, {"n": np.ones(10, bool)}, rule="vqa_soft")
    found = found_in(
        data, {"n": NONE, "t": {**TOP, "set": "top", "k": 1}}, {"n": np.ones(10, bool), "t": np.zeros(10, bool)}
    )
    with pytest.raises(VlmlakeError, match="no intervention other in this result: expected one of made"):
        found.plot(intervention="other")


def test_a_dataset_with_its_tables_gives_what_its_run_gives(lake_url):
    lake = open_lake(lake_url)
    run = lake.run("tiny-llava")
    tables = {name: lake.table(name) for name in ("interventions", "outcomes")}
    assert causal(run).table.equals(causal(run.dataset(), **tables).table)


def test_new_outcomes_alone_compute_again(lake_copy):
    url = str(lake_copy)

    def states():
        found = analyze(url, ["causal", "labels"])
        return {step.analysis: step.state for step in found.steps if step.state != "started"}

    assert states() == {"causal": "unchanged", "labels": "unchanged"}
    run = open_lake(url).run("tiny-llava")
    rows = run.findings("outcomes")
    more = rows.filter(condition="a-top-5").with_columns(condition=pl.lit("a-new"))
    specs = run.findings("interventions").filter(intervention="ablation")
    new = specs.filter(condition="a-top-5").with_columns(condition=pl.lit("a-new"), k=pl.lit(7, pl.Int32))
    write(url, "ablation", pl.concat([specs, new]), more, part="000001")
    assert states() == {"causal": "done", "labels": "unchanged"}
    assert states() == {"causal": "unchanged", "labels": "unchanged"}
    drops = open_lake(url).table("results").filter(analysis="causal", metric="top", statistic="drop", split="all")
    drops = drops.filter(pl.col("gold").is_null())
    assert drops.filter(at=7)["value"].to_list() == drops.filter(at=5)["value"].to_list()


def test_a_run_without_interventions_is_told_which_verbs_make_them(lake_copy):
    url = str(lake_copy)
    for path in (*lake_copy.glob("interventions/*/*/*"), *lake_copy.glob("results/causal/*/*")):
        path.unlink()
    found = analyze(url)
    assert not found.refusals
    assert "`vlmlake ablate` or `vlmlake mask` makes them" in found.impossible[-1]
    told = study(open_lake(url)).filter(pl.col("quantity").str.starts_with("drop"))
    assert "no causal under pope_official: `vlmlake mask`" in told["ours"].to_list()
    assert "no causal under pope_official: `vlmlake ablate`" in told["ours"].to_list()


def test_the_study_has_our_drops_in_percentage_points(lake_copy):
    url = str(lake_copy)
    lake = open_lake(url)
    told = study(lake).filter(pl.col("quantity").str.starts_with("drop"), pl.col("run") != "no run")
    mask, five = told.sort("quantity").rows(named=True)
    drop = lake.table("results").filter(analysis="causal", metric="high", statistic="drop", split="all")
    value = drop.filter(pl.col("gold").is_null())["value"].item()
    assert mask["value"] == pytest.approx(100 * value)
    assert mask["ours"].startswith(f"{100 * value:.1f} [")
    assert five["own_note"].startswith("top l1 resid block_1 mean all; ")
    for path in lake_copy.glob("results/causal/*/*"):
        path.unlink()
    told = study(lake).filter(pl.col("quantity").str.starts_with("drop"), pl.col("run") != "no run")
    assert set(told["ours"]) == {"no causal under pope_official: `vlmlake analyze`"}


def test_half_of_a_layer_is_found_by_its_share(lake_url):
    lake = open_lake(lake_url)
    results = lake.table("results").filter(analysis="causal", metric="top", statistic="drop", split="all")
    results = results.filter(pl.col("gold").is_null())
    made = lake.table("interventions").filter(set="top", share=0.5)
    (row,) = closest(results, made)[0].rows(named=True)
    assert row["at"] == 32


def test_the_terminal_has_a_line_a_condition(lake_url):
    lake, text = open_lake(lake_url), io.StringIO()
    console = Console(file=text, width=300, markup=False, highlight=False, soft_wrap=True)
    print_causal(console, lake.table("results"), lake.table("interventions"))
    lines = [line.split() for line in text.getvalue().splitlines() if line.strip()]
    assert "percentage" in lines[0]
    tops = [line for line in lines if line[0] == "top"]
    assert [line[line.index("all") + 1] for line in tops] == ["1", "5", "32"]
    assert tops[2][:6] == ["top", "l1", "resid", "block_1", "mean", "all"]
    assert "0.5" in tops[2]
    assert tops[2][-5:-2] == ["1", "of", "21"]
    assert any(line[:3] == ["high", "minus", "random"] for line in lines)
    assert not any(line[0] == "control" for line in lines)


def test_most_heads_are_left_to_the_table():
    data = planted_questions(40)
    conditions = {"n": NONE}
    conditions |= {f"h{head}": {"kind": "heads", "set": "head", "layer": "block_1", "head": head} for head in range(14)}
    right = {"n": np.ones(40, bool), **{f"h{head}": np.arange(40) >= head for head in range(14)}}
    results = found_in(data, conditions, right).table.with_columns(
        analysis=pl.lit("causal"), condition=pl.lit(None, pl.String)
    )
    text = io.StringIO()
    print_causal(Console(file=text, width=200, markup=False, highlight=False), results, spec(conditions))
    assert sum(line.startswith("head ") for line in text.getvalue().splitlines()) == 10
    assert "4 more heads, which cost less" in text.getvalue()


def test_an_intervention_tells_of_its_own_examples_alone():
    """Another one asked about more under the same condition."""
    data = planted_questions(100)
    before = np.ones(100, bool)
    right = {"n": before, "t": moved(before, 30, 0)}
    conditions = {"n": {**NONE, "examples": data["example"].values[:40].tolist()}, "t": {**TOP, "k": 5}}
    found = found_in(data, conditions, right)
    assert (one(found, "top", "drop")["n"], one(found, "top", "drop")["value"]) == (40, 0.75)
    conditions["n"] = NONE
    assert (one(found_in(data, conditions, right), "top", "drop")["n"]) == 100


def test_what_tells_rows_apart_is_found_behind_other_notes():
    conditions = spec({"l1": {**TOP, "k": 5}, "auroc": {**TOP, "k": 5, "ranking": "auroc"}})
    data = planted_questions(20)
    right = {"n": np.arange(20) < 15, "t": np.arange(20) < 10}
    row = found_in(data, {"n": NONE, "t": {**TOP, "k": 5}}, right).rows(metric="top", statistic="drop", split="all")
    row = row.filter(pl.col("gold").is_null()).with_columns(
        note=pl.lit("3 without a gold answer; ranking auroc; 5 right only before"), intervention=pl.lit("made")
    )
    assert described(row, conditions)["ranking"].to_list() == ["auroc"]
