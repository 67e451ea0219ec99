import numpy as np
import pytest
import xarray as xr

from tests.analysis.planted_answers import planted_answers, with_texts
from vlmlake.analysis.consistency import consistency
from vlmlake.analysis.population import population
from vlmlake.analysis.selective import CONFIDENCES, SELECTIVE, SelectiveParameters, selective
from vlmlake.errors import VlmlakeError

COORDINATES = {"first_log_prob", "first_gap", "first_entropy"}


def _metrics(data, **variables):
    """Per-example numbers of other analyses; each given as its dimensions and a function of the right answers."""
    rng = np.random.default_rng(3)
    right = (data["answer"].values == data["gold"].values).astype(float)
    labels = {name: data[name].values for name in ("example", "layer", "position")}
    made = {}
    for name, (dimensions, number) in variables.items():
        shape = [len(labels[dimension]) for dimension in dimensions]
        made[name] = (dimensions, number(right.reshape(-1, *[1] * (len(shape) - 1)), rng.normal(size=shape)))
    return xr.Dataset(made, {name: labels[name] for name in {d for dims, _ in variables.values() for d in dims}})


def _all_metrics(data):
    def noise(right, normal):
        return normal

    def probability(right, normal):
        return 1 / (1 + np.exp(-normal - 2 * right))

    others = _metrics(
        data,
        margin_pred=(("example", "layer"), lambda right, normal: right + normal),
        entropy_normalised=(("example", "position", "layer"), noise),
        probe_nested=(("example", "position"), probability),
        attention_probe=(("example",), probability),
        fusion=(("example",), probability),
    )
    return xr.merge([others, consistency(data).examples])


def test_without_metrics_the_coordinates_confidences_are_compared():
    found = selective(planted_answers(30))
    assert set(found.table["metric"]) == COORDINATES
    assert set(found.table["split"]) == {"all", "adversarial", "random"}
    assert found.table["value"].null_count() == 0


def test_every_confidence_has_its_curve_on_the_same_examples():
    data = planted_answers(40)
    found = selective(data, metrics=_all_metrics(data))
    assert set(found.table["metric"]) == {one.metric for one in CONFIDENCES}
    assert set(found.rows(split="all")["n"]) == {240}
    for one in CONFIDENCES:
        assert found.rows(metric=one.metric, statistic="risk", split="all")["at"].to_list() == pytest.approx(
            [tenth / 10 for tenth in range(1, 11)]
        )
    probabilities = {"first_log_prob", "probe_nested", "attention_probe", "fusion"}
    assert set(found.rows(statistic="ece")["metric"]) == set(found.rows(statistic="brier")["metric"]) == probabilities
    assert "calibrated out of fold, folds pooled" in found.row(metric="fusion", statistic="aurc", split="all")["note"]


def test_every_confidence_is_weighed_against_the_cheapest_one_by_a_paired_interval():
    data = planted_answers(80, seed=5)
    found = selective(data, metrics=_all_metrics(data))
    gains = found.rows(statistic="auroc_difference", split="all")
    assert set(gains["metric"]) == {one.metric for one in CONFIDENCES} - {"first_log_prob"}
    cheapest = found.row(metric="first_log_prob", statistic="auroc", split="all")["value"]
    for row in gains.iter_rows(named=True):
        alone = found.row(metric=row["metric"], statistic="auroc", split="all")["value"]
        assert row["value"] == pytest.approx(alone - cheapest)
        assert row["low"] <= row["value"] <= row["high"]
        assert row["note"].endswith("over first_log_prob")
    assert found.row(metric="fusion", statistic="auroc_difference", split="all")["low"] > 0


def test_risk_at_full_coverage_is_the_error_rate_for_all_of_them():
    data = planted_answers(40)
    found = selective(data, metrics=_all_metrics(data))
    error_rate = 1 - population(data).correct.mean()
    assert found.rows(statistic="risk", at=1.0, split="all")["value"].to_list() == pytest.approx([error_rate] * 9)


def test_the_confidence_that_knows_has_the_least_risk_and_noise_has_the_error_rate():
    data = planted_answers(80, seed=5)
    metrics = _metrics(
        data,
        fusion=(("example",), lambda right, normal: 0.1 + 0.7 * right + 0.2 / (1 + np.exp(-normal))),
        margin_pred=(("example", "layer"), lambda right, normal: normal),
    )
    found = selective(data, metrics=metrics)
    aurc = {metric: found.row(metric=metric, statistic="aurc", split="all") for metric in ("fusion", "margin_pred")}
    excess = found.row(metric="fusion", statistic="excess_aurc", split="all")
    assert excess["value"] == pytest.approx(0, abs=1e-12)
    assert aurc["fusion"]["high"] < found.row(metric="first_log_prob", statistic="aurc", split="all")["low"]
    error_rate = 1 - population(data).correct.mean()
    assert aurc["margin_pred"]["low"] < error_rate < aurc["margin_pred"]["high"]
    half = found.row(metric="margin_pred", statistic="auroc", split="all")
    assert half["low"] < 0.5 < half["high"]


def test_a_probability_that_is_right_is_calibrated_and_one_that_is_not_is_found_out():
    data = planted_answers(150, seed=1)
    honest = selective(data)
    assert honest.row(metric="first_log_prob", statistic="ece", split="all")["low"] == 0
    boasting = data.assign_coords(first_log_prob=data["first_log_prob"] * 0.2)
    assert selective(boasting).row(metric="first_log_prob", statistic="ece", split="all")["low"] > 0.05


def test_entropies_are_confidences_by_their_negatives():
    found = selective(planted_answers(100))
    entropy = found.row(metric="first_entropy", statistic="auroc", split="all")
    assert entropy["low"] > 0.5
    assert entropy["note"] == "confidence is its negative"


def test_layers_and_positions_are_the_last_and_prompt_last():
    data = planted_answers(40)
    metrics = _metrics(
        data,
        margin_pred=(("example", "layer"), lambda right, normal: right * [[0, 0, 9]] + normal),
        entropy_normalised=(
            ("example", "position", "layer"),
            lambda right, normal: -right * [[[0, 0, 9], [0, 0, 0]]] + normal,
        ),
    )
    found = selective(data, metrics=metrics)
    assert found.row(metric="margin_pred", statistic="auroc", split="all")["value"] > 0.99
    assert found.row(metric="entropy_normalised", statistic="auroc", split="all")["value"] > 0.99


def test_what_other_analyses_did_not_find_has_a_row_that_says_so():
    data = planted_answers(20)
    metrics = _metrics(data, margin_pred=(("example", "layer"), lambda right, normal: normal)).isel(layer=[0, 1])
    found = selective(data, metrics=metrics)
    for split in ("all", "adversarial", "random"):
        fusion = found.row(metric="fusion", split=split)
        assert (fusion["value"], fusion["note"]) == (None, "the analysis fusion found no fusion in this run")
        margin = found.row(metric="margin_pred", split=split)
        assert margin["note"] == "the analysis margins found no margin_pred at layer block_1"
    assert found.row(metric="first_gap", statistic="aurc", split="all")["n"] == 120


def test_only_examples_with_every_confidence_are_compared_and_the_others_counted():
    data = planted_answers(20)
    metrics = _metrics(data, fusion=(("example",), lambda right, normal: 1 / (1 + np.exp(-normal))))
    metrics["fusion"][:7] = np.nan
    found = selective(data, metrics=metrics.isel(example=slice(None, None, -1)).isel(example=slice(0, 115)))
    row = found.row(metric="first_gap", statistic="auroc", split="all")
    assert (row["n"], row["note"]) == (113, "7 without every confidence")


def test_a_confidence_that_no_example_of_a_split_has_leaves_the_others_alone():
    data = planted_answers(20)
    metrics = _metrics(data, fusion=(("example",), lambda right, normal: 1 / (1 + np.exp(-normal))))
    metrics["fusion"][data["split"].values == "random"] = np.nan
    found = selective(data, metrics=metrics)
    assert found.row(metric="fusion", split="random")["note"] == "no example of this split has fusion"
    assert found.row(metric="first_gap", statistic="auroc", split="random")["n"] == 60
    assert found.row(metric="fusion", statistic="auroc", split="adversarial")["value"] is not None


def test_the_order_of_the_other_analyses_examples_does_not_matter():
    data = planted_answers(20)
    metrics = _all_metrics(data)
    found = selective(data, metrics=metrics)
    shuffled = metrics.isel(example=np.random.default_rng(0).permutation(120))
    assert selective(data, metrics=shuffled).table.equals(found.table)


def test_the_seed_decides_the_intervals_and_nothing_else():
    data = planted_answers(20)
    one, other = selective(data, seed=1).table, selective(data, seed=2).table
    assert one["value"].equals(other["value"])
    assert not one["low"].equals(other["low"])
    assert selective(data, seed=1).table.equals(one)


def test_other_coverages_may_be_asked_for():
    found = selective(planted_answers(20), parameters=SelectiveParameters(coverages=(0.25, 0.8)))
    assert set(found.rows(statistic="risk")["at"]) == {0.25, 0.8}


def test_where_all_answers_are_right_there_is_no_curve_but_a_brier_score():
    data = planted_answers(10)
    found = selective(with_texts(data, answer=data["gold"].values))
    for statistic in ("auroc", "aurc"):
        row = found.row(metric="first_gap", statistic=statistic, split="all")
        assert (row["value"], row["note"]) == (None, "60 of 60 answers are right: expected right and wrong ones")
    assert found.rows(statistic="risk").is_empty()
    assert found.row(metric="first_log_prob", statistic="brier", split="all")["value"] > 0


def test_nothing_to_compare_is_refused_by_name():
    data = planted_answers(10)
    metrics = _metrics(data, fusion=(("example",), lambda right, normal: 1 / (1 + np.exp(-normal))))
    metrics["fusion"][:] = np.nan
    blind = data.assign_coords({name: data[name] * np.nan for name in COORDINATES})
    with pytest.raises(VlmlakeError, match=r"planted-0+: .*found no margin_pred in this run; .*has first_gap"):
        selective(blind, metrics=metrics)


def test_it_comes_after_those_whose_numbers_it_compares():
    assert {one.analysis for one in CONFIDENCES if one.analysis} == set(SELECTIVE.after)


def test_curves_are_drawn_and_the_table_goes_to_xarray():
    pytest.importorskip("matplotlib")
    found = selective(planted_answers(20))
    axes = found.plot()
    assert {text.get_text() for text in axes.get_legend().get_texts()} == COORDINATES
    assert len(axes.lines) == 3
    assert found.to_xarray()["first_gap_risk"].sizes == {"bound": 3, "split": 3, "at": 10}
