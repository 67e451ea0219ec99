import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from tests.analysis.planted_answers import planted_answers, with_texts
from vlmlake.analysis.labels import labels
from vlmlake.analysis.population import population
from vlmlake.answers.rules import RULES, correctness
from vlmlake.errors import VlmlakeError

TEN = '["yes", "yes", "yes", "yes", "no", "no", "no", "maybe", "maybe", "it is"]'


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("Yes", "yes"),
        ("No", "no"),
        ("no", "no"),
        ("No, there is no dog in the image.", "no"),
        ("There is not a dog", "no"),
        ("Yes. No doubt about it.", "yes"),
        ("a red circle", "yes"),
        ("", "yes"),
        ("NO", "yes"),
        ("nothing", "yes"),
    ],
)
def test_pope_official_reads_the_first_sentence_and_defaults_to_yes(answer, says):
    assert RULES["pope_official"].score(answer, "yes") == (says == "yes")
    assert RULES["pope_official"].score(answer, "no") == (says == "no")


@pytest.mark.parametrize(
    ("answer", "gold", "verdict"),
    [(" Yes \n", "yes", True), ("yes.", "yes", False), ("no", "No", True), ("", "no", False)],
)
def test_exact_wants_the_gold_answer_alone(answer, gold, verdict):
    assert RULES["exact"].score(answer, gold) is verdict


@pytest.mark.parametrize(
    ("answer", "gold", "verdict"),
    [
        ("Yes, it is.", "yes", True),
        ("NO!", "yes", False),
        ("yes and no", "yes", None),
        ("a red circle", "no", None),
        ("nowhere", "no", None),
    ],
)
def test_yes_xor_no_leaves_the_unclear_unparsed(answer, gold, verdict):
    assert RULES["yes_xor_no"].score(answer, gold) is verdict


def test_unparsed_is_neither_right_nor_wrong():
    verdicts = correctness(["yes", "no", "maybe"], ["yes", "yes", "no"], "yes_xor_no")
    np.testing.assert_array_equal(verdicts, [1.0, 0.0, np.nan])


def test_an_unknown_rule_names_the_known_ones():
    with pytest.raises(VlmlakeError, match=r"unknown label rule fuzzy: expected one of pope_official, exact, .*soft"):
        correctness([], [], "fuzzy")
    with pytest.raises(VlmlakeError, match="unknown label rule fuzzy"):
        labels(planted_answers(5), rule="fuzzy")


def test_every_rule_names_its_version_and_its_source():
    assert all(rule.version >= 1 and rule.source and rule.name == name for name, rule in RULES.items())


@pytest.mark.parametrize("rule", ["pope_official", "exact", "yes_xor_no"])
def test_all_answers_are_labelled_and_the_unparsed_are_a_class_of_their_own(rule):
    data = planted_answers(10)
    answers = data["answer"].values.copy()
    answers[:3] = "a red circle"
    data = with_texts(data, answer=answers)
    found = labels(data, rule=rule).labels
    assert [*found.columns, "condition"] == ["run", "example", "rule", "label", "score", "condition"]
    assert found["example"].to_list() == data["example"].values.tolist()
    assert set(found["run"]) == {"planted-00000000"}
    assert set(found["rule"]) == {rule}
    if rule == "yes_xor_no":
        assert found["label"].to_list()[:3] == ["unparsed"] * 3
        assert found["score"].null_count() == 3
    assert set(found["label"][3:]) == {"right", "wrong"}
    right = (data["answer"].values == data["gold"].values)[3:]
    assert found["label"].to_list()[3:] == np.where(right, "right", "wrong").tolist()


def test_unparsed_answers_are_counted_by_split_and_left_out_of_the_rest():
    data = planted_answers(10)
    answers = data["answer"].values.copy()
    answers[[0, 2, 4, 5]] = "maybe"
    found = labels(with_texts(data, answer=answers), rule="yes_xor_no")
    assert [found.row(metric="unparsed", split=split)["value"] for split in ("all", "adversarial", "random")] == [
        pytest.approx(share) for share in (4 / 60, 3 / 30, 1 / 30)
    ]
    assert found.row(metric="unparsed", split="all")["n"] == 60
    accuracy = found.row(metric="accuracy", split="all")
    assert (accuracy["n"], accuracy["note"]) == (56, "4 unparsed")


def test_a_split_that_no_answer_can_be_read_of_has_no_accuracy_but_a_count():
    data = planted_answers(10)
    answers = np.where(data["split"].values == "random", "maybe", data["answer"].values)
    found = labels(with_texts(data, answer=answers), rule="yes_xor_no")
    assert found.row(metric="unparsed", split="random")["value"] == 1
    accuracy = found.row(metric="accuracy", split="random")
    assert (accuracy["value"], accuracy["n"], accuracy["base_rate"]) == (None, 0, None)
    assert accuracy["note"] == "30 unparsed; a proportion of no examples: expected at least 1"


def test_accuracy_by_split_adds_up():
    rows = {row["split"]: row for row in labels(planted_answers(30)).rows(metric="accuracy").iter_rows(named=True)}
    assert list(rows) == ["all", "adversarial", "random"]
    assert rows["all"]["n"] == rows["random"]["n"] + rows["adversarial"]["n"] == 180
    assert rows["all"]["value"] == pytest.approx((rows["random"]["value"] + rows["adversarial"]["value"]) / 2)


def test_popes_scores_are_scikit_learns_with_yes_as_the_positive_class():
    data = planted_answers(40)
    gold, said = ((data[name].values == "yes").astype(int) for name in ("gold", "answer"))
    found = labels(data)
    for metric, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        row = found.row(metric=metric, statistic="ratio", split="all")
        assert row["value"] == pytest.approx(score(gold, said))
        assert row["low"] < row["value"] < row["high"]
    assert found.row(metric="yes_ratio", split="all")["value"] == pytest.approx(said.mean())


def test_a_rule_that_never_reads_yes_refuses_precision_and_keeps_the_rest():
    found = labels(with_texts(planted_answers(10), answer="no"))
    assert found.row(metric="precision", split="all")["value"] is None
    assert found.row(metric="precision", split="all")["note"] == "the statistic has no value on these examples"
    assert found.row(metric="yes_ratio", split="all")["value"] == 0


def test_examples_that_a_rule_cannot_label_are_counted_and_neither_right_nor_wrong():
    data = planted_answers(10)
    gold = data["gold"].values.copy()
    gold[:2], gold[2:5], gold[5] = None, TEN, "a cat"
    data = with_texts(data, gold=gold)
    notes = {
        "pope_official": (54, "2 without a gold answer; 4 whose gold answer is neither yes nor no"),
        "exact": (55, "2 without a gold answer; 3 with several gold answers"),
        "vqa_soft": (3, "2 without a gold answer; 55 without ten answers"),
    }
    for rule, (n, note) in notes.items():
        chosen = population(data, rule=rule)
        assert (len(chosen), chosen.note) == (n, note)
        assert labels(data, rule=rule).labels.height == n


def test_pope_scores_are_left_to_golds_that_are_yes_or_no():
    data = with_texts(planted_answers(10), gold="a cat")
    assert set(labels(data, rule="exact").table["metric"]) == {"accuracy", "unparsed"}


def test_nothing_to_label_is_refused_with_the_reason():
    with pytest.raises(
        VlmlakeError, match=r"no labelled examples of split all under the rule vqa_soft \(60 without ten"
    ):
        labels(planted_answers(10), rule="vqa_soft")
    with pytest.raises(VlmlakeError, match=r"under the rule yes_xor_no \(60 unparsed\)"):
        labels(with_texts(planted_answers(10), answer="maybe"), rule="yes_xor_no")
    with pytest.raises(VlmlakeError, match="no labelled examples of split popular"):
        population(planted_answers(10), "popular")


def test_the_soft_score_has_a_mean_and_counts_as_right_from_one_half():
    data = with_texts(planted_answers(10), gold=TEN)
    answers = np.resize(np.array(["yes", "maybe", "it is", "dog"], object), 60)
    found = labels(with_texts(data, answer=answers), rule="vqa_soft")
    assert found.labels.head(4).select("label", "score").rows() == [
        ("right", 1.0),
        ("right", pytest.approx(0.6)),
        ("wrong", pytest.approx(0.3)),
        ("wrong", 0.0),
    ]
    assert found.row(metric="score", statistic="mean", split="all")["value"] == pytest.approx(1.9 / 4)
    assert found.row(metric="accuracy", split="all")["value"] == 0.5
    assert "precision" not in set(found.table["metric"])


def test_the_plot_has_a_bar_a_split():
    pytest.importorskip("matplotlib")
    axes = labels(planted_answers(10)).plot()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["all", "adversarial", "random"]


def test_a_pair_that_two_splits_ask_counts_once_when_pooled():
    data = with_texts(planted_answers(10), question=np.tile(["a", "a", "b", "b", "c", "c"], 10))
    assert len(population(data)) == 30
    assert len(population(data, "random")) == len(population(data, "adversarial")) == 30
