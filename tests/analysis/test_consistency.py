import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.analysis.planted_answers import planted_answers, with_texts
from vlmlake.analysis.consistency import CONSISTENCY, agreement, consistency, normalised
from vlmlake.analysis.population import population
from vlmlake.analysis.result import Result
from vlmlake.errors import VlmlakeError


def _drawn(*rows):
    drawn = np.full((len(rows), max(map(len, rows))), None, object)
    for number, row in enumerate(rows):
        drawn[number, : len(row)] = row
    return drawn


def _with_drawn(data, drawn):
    return data.drop_vars("sampled_answer").assign_coords(sampled_answer=(("example", "sample"), drawn))


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [("Yes.", "yes"), ("  A  RED\tcircle!", "a redcircle"), ("3.5", "35"), ("été", "t"), ("?!", ""), ("", "")],
)
def test_the_normaliser_keeps_letters_digits_and_single_spaces(answer, wanted):
    assert normalised(answer) == wanted


texts = st.lists(st.sampled_from(["yes", "Yes.", "no", "a dog", "A dog!", ""]), min_size=2, max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.lists(texts, min_size=1, max_size=5), st.sampled_from(["yes", "No", "cat"]))
def test_agreement_is_that_of_counting_one_by_one(rows, greedy):
    modal, numbers = agreement(_drawn(*rows), np.full(len(rows), greedy, object))
    for number, row in enumerate(rows):
        told = [re.sub(" +", " ", re.sub("[^a-z0-9 ]", "", text.lower())).strip() for text in row]
        shares = {text: told.count(text) / len(told) for text in told}
        mode = max(told, key=lambda text: shares[text])
        assert numbers["self_consistency"][number] == pytest.approx(shares[mode])
        assert modal[number] == row[told.index(mode)]
        assert numbers["modal_agrees"][number] == (mode == normalised(greedy))
        assert numbers["answer_entropy"][number] == pytest.approx(stats.entropy(list(shares.values())))


def test_of_answers_drawn_equally_often_the_first_one_drawn_is_the_mode():
    modal, numbers = agreement(_drawn(["no", "yes", "Yes", "No"], ["b", "a"]), np.array(["no", "a"], object))
    assert modal.tolist() == ["no", "b"]
    assert numbers["modal_agrees"].tolist() == [1, 0]


def test_examples_with_fewer_than_two_draws_have_no_number_and_are_counted():
    data = planted_answers(10)
    drawn = data["sampled_answer"].values.copy()
    drawn[:4, 1:] = None
    drawn[0] = None
    drawn[4:6, 5:] = None
    found = consistency(_with_drawn(data, drawn))
    assert found.examples["self_consistency"].isnull().sum() == 4
    row = found.row(metric="self_consistency", statistic="auroc", split="all")
    assert (row["n"], row["note"]) == (56, "4 with fewer than 2 drawn answers; 5 to 10 drawn answers")


def test_every_example_has_its_numbers_whatever_its_label():
    data = planted_answers(10)
    data = with_texts(data, gold=[None] * 5 + data["gold"].values[5:].tolist())
    found = consistency(data).examples
    assert found["example"].values.tolist() == data["example"].values.tolist()
    assert all(values.dtype == np.float64 and values.notnull().all() for values in found.data_vars.values())
    assert not CONSISTENCY.labelled


def test_what_is_drawn_tells_right_answers_from_wrong_where_it_follows_their_odds():
    found = consistency(planted_answers(seed=1))
    for metric in ("self_consistency", "self_consistency_of_modal"):
        auroc = found.row(metric=metric, statistic="auroc", split="all")
        assert 0.6 < auroc["low"] < auroc["value"]
        correlation = found.row(metric=metric, statistic="point_biserial", split="all")
        assert correlation["low"] > 0.2
        assert correlation["p_holm"] < 1e-3
    assert found.row(metric="answer_entropy", split="all")["high"] < -0.2
    assert found.row(metric="self_consistency", statistic="auroc", split="random")["note"] == "10 drawn answers"


def test_nothing_is_found_where_draws_have_nothing_to_do_with_the_answer():
    hits = 0
    for seed in range(20):
        found = consistency(planted_answers(60, signal=0.0, seed=seed))
        row = found.row(metric="self_consistency", statistic="point_biserial", split="all")
        hits += row["low"] <= 0 <= row["high"]
    assert hits >= 17


def test_the_modal_answer_is_scored_beside_the_greedy_one():
    data = planted_answers(40, seed=2)
    found = consistency(data)
    modal, _ = agreement(data["sampled_answer"].values, data["answer"].values)
    right = np.array([normalised(one) for one in modal]) == data["gold"].values
    chosen = population(data)
    assert found.row(metric="modal_accuracy", split="all")["value"] == pytest.approx(right.mean())
    gain = found.row(metric="modal_gain", statistic="paired_difference", split="all")
    assert gain["value"] == pytest.approx(right.mean() - chosen.correct.mean())
    assert gain["low"] < gain["value"] < gain["high"]
    # Ten answers drawn with the greedy one's odds, mostly above one half, outvote it.
    assert gain["low"] > 0


def test_modal_answers_that_the_rule_cannot_read_are_left_out_and_counted():
    data = planted_answers(10)
    drawn = data["sampled_answer"].values.copy()
    drawn[:3] = "maybe"
    found = consistency(_with_drawn(data, drawn), rule="yes_xor_no")
    row = found.row(metric="modal_accuracy", split="all")
    assert (row["n"], row["note"]) == (57, "3 whose modal answer is unparsed; 10 drawn answers")
    assert found.row(metric="self_consistency", statistic="auroc", split="all")["n"] == 60


def test_draws_that_always_agree_get_no_correlation():
    data = planted_answers(10)
    found = consistency(_with_drawn(data, np.full((60, 4), "yes", object)))
    row = found.row(metric="self_consistency", statistic="point_biserial", split="all")
    assert row["value"] is None
    assert row["note"].startswith("4 drawn answers; self_consistency is constant over all 60 examples")
    area = found.row(metric="self_consistency", statistic="auroc", split="all")
    assert area["value"] is None
    assert area["note"].startswith("4 drawn answers; the score is constant over all 60 examples")


def test_a_split_without_labels_is_left_out():
    data = planted_answers(10)
    gold = np.where(data["split"].values == "random", None, data["gold"].values)
    found = consistency(with_texts(data, gold=gold))
    assert found.rows(split="random").is_empty()
    assert found.row(metric="modal_accuracy", split="adversarial")["n"] == 30


def test_a_run_without_drawn_answers_says_how_to_draw_them():
    data = planted_answers(5)
    with pytest.raises(VlmlakeError, match=r"planted-0+ has no drawn answers: run `vlmlake extract --samples 10`"):
        consistency(data.drop_vars("sampled_answer"))
    with pytest.raises(
        VlmlakeError, match=r"has 1 drawn answers a question, expected at least 2: run `vlmlake extract"
    ):
        consistency(data.isel(sample=[0]))


def test_the_result_goes_to_xarray_and_plots():
    pytest.importorskip("matplotlib")
    found = consistency(planted_answers(20))
    assert isinstance(found, Result)
    whole = found.to_xarray()
    assert whole["self_consistency"].sizes == {"example": 120}
    assert set(whole["self_consistency_auroc"].dims) == {"bound", "split"}
    assert [text.get_text() for text in found.plot().get_legend().get_texts()] == ["greedy answer", "modal answer"]
