"""Choices against a scripted model: what it says next is known for every branch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlmlake.ingest.answers import Answer, Choices
from vlmlake.ingest.decoding import Decoding

END, OTHER_END, VOCAB = 2, 7, 9


def certain(token: int) -> torch.Tensor:
    """Logits under which a token is all but sure."""
    logits = torch.zeros(VOCAB)
    logits[token] = 50.0
    return logits


def _said(script: list[int], step: int) -> int:
    """What a branch says at a step; something, once its script is at its end."""
    return script[step] if step < len(script) else OTHER_END


def decode(
    scripts: list[list[list[int]]], answer_tokens: int, ends: frozenset[int] = frozenset({END})
) -> tuple[tuple[Answer, ...], tuple[tuple[Answer, ...], ...], list[int]]:
    """Answers of questions whose branches say what `scripts` [questions][branches][steps] say, and how many branches
    went through the model at every step.

    A first token is drawn by its uniform: the first logits make the greedy branch's token the likeliest, and the first
    tokens of the drawn branches share the rest.
    """
    samples = len(scripts[0]) - 1
    decoding = Decoding(answer_tokens=answer_tokens, samples=samples, temperature=1.0, top_p=1.0)
    uniforms = torch.full((len(scripts), samples, answer_tokens), 0.5)
    first = torch.full((len(scripts), VOCAB), -50.0)
    for question, branches in enumerate(scripts):
        order = list(dict.fromkeys(script[0] for script in branches))
        for place, token in enumerate(order):
            first[question, token] = -float(place)
        shares = first[question].softmax(-1)[order].cumsum(-1)
        for branch, script in enumerate(branches[1:]):
            place = order.index(script[0])
            below = 0.0 if place == 0 else float(shares[place - 1])
            uniforms[question, branch, 0] = (below + float(shares[place])) / 2
    choices = Choices(ends, decoding, first, uniforms)
    ran = []
    while (branches := choices.running()) is not None:
        ran.append(len(branches))
        following = [[certain(_said(branches_of[branch], len(ran))) for branch in branches] for branches_of in scripts]
        choices.take(branches, torch.stack([torch.stack(of_question) for of_question in following]))
    return *choices.answers(), ran


def test_an_answer_is_cut_after_its_first_end_token():
    (answer,), _, ran = decode([[[4, 5, END, 6, 6]]], answer_tokens=6)
    assert answer.ids == (4, 5, END)
    assert (answer.captured, answer.finish) == (2, "stop")
    assert ran == [1, 1]


@pytest.mark.parametrize("end", [END, OTHER_END])
def test_any_of_several_end_tokens_ends_an_answer(end):
    (answer,), _, _ = decode([[[4, end, 5]]], answer_tokens=4, ends=frozenset({END, OTHER_END}))
    assert (answer.ids, answer.captured) == ((4, end), 1)


def test_an_answer_that_does_not_end_is_as_long_as_the_limit_and_its_last_token_is_captured():
    (answer,), _, ran = decode([[[4, 5, 6, 3, 3]]], answer_tokens=3)
    assert answer.ids == (4, 5, 6)
    assert (answer.captured, answer.finish) == (3, "length")
    assert ran == [1, 1, 1]


def test_an_end_token_as_the_limits_last_token_stops_the_answer():
    (answer,), _, ran = decode([[[4, 5, END]]], answer_tokens=3)
    assert (answer.ids, answer.captured, answer.finish) == ((4, 5, END), 2, "stop")
    assert ran == [1, 1]


def test_an_empty_answer_is_its_end_token_alone():
    (answer,), _, ran = decode([[[END, 5]]], answer_tokens=3)
    assert (answer.ids, answer.captured, answer.finish) == ((END,), 0, "stop")
    assert ran == []


def test_questions_that_end_at_different_steps_keep_their_own_lengths():
    answers, _, ran = decode([[[4, END]], [[5, 6, 3, END]], [[END]]], answer_tokens=6)
    assert [answer.ids for answer in answers] == [(4, END), (5, 6, 3, END), (END,)]
    assert ran == [1, 1, 1]


def test_samples_may_end_before_and_after_the_greedy_answer():
    scripts = [[[4, 5, END], [6, END], [4, 5, 3, 3, END], [5, 5, 5, 5, 5, 5]]]
    (greedy,), (samples,), ran = decode(scripts, answer_tokens=5)
    assert greedy.ids == (4, 5, END)
    assert [sample.ids for sample in samples] == [(6, END), (4, 5, 3, 3, END), (5, 5, 5, 5, 5)]
    assert [sample.finish for sample in samples] == ["stop", "stop", "length"]
    assert [sample.captured for sample in samples] == [1, 4, 5]
    assert ran == [4, 4, 4, 4]


def test_samples_at_the_limit_need_no_forward_but_the_greedy_answer_does():
    _, _, ran = decode([[[4, 5, 6], [6, 5, 4]]], answer_tokens=3)
    assert ran == [2, 2, 1]


def test_the_greedy_answer_alone_goes_on_when_all_samples_have_ended():
    (greedy,), (samples,), ran = decode([[[4, 5, 6, END], [END], [3, END]]], answer_tokens=5)
    assert greedy.ids == (4, 5, 6, END)
    assert [sample.ids for sample in samples] == [(END,), (3, END)]
    assert ran == [3, 1, 1]


def test_samples_of_one_question_are_not_those_of_another():
    scripts = [[[4, END], [5, 6, END]], [[3, 3, END], [6, END]]]
    greedy, samples, _ = decode(scripts, answer_tokens=4)
    assert [answer.ids for answer in greedy] == [(4, END), (3, 3, END)]
    assert [answer.ids for (answer,) in samples] == [(5, 6, END), (6, END)]


def test_log_probs_are_of_the_models_own_distribution_whatever_the_temperature():
    generator = torch.Generator().manual_seed(3)
    first = torch.randn((2, VOCAB), generator=generator)
    following = torch.randn((2, 3, VOCAB), generator=generator)
    decoding = Decoding(answer_tokens=2, samples=2, temperature=0.2, top_p=0.6)
    choices = Choices(frozenset({END}), decoding, first, torch.rand((2, 2, 2), generator=generator))
    branches = choices.running()
    chosen = choices.last(branches)
    choices.take(branches, following)
    greedy, samples = choices.answers()
    for question in range(2):
        for branch, answer in enumerate((greedy[question], *samples[question])):
            assert answer.ids[0] == chosen[question, branch]
            distributions = np.stack([first[question].numpy(), following[question, branch].numpy()])[: len(answer.ids)]
            own = distributions - np.log(np.exp(distributions).sum(-1, keepdims=True))
            np.testing.assert_allclose(answer.log_probs, own[np.arange(len(answer.ids)), answer.ids], atol=1e-6)


def test_the_first_tokens_gap_and_entropy_are_those_of_its_logits():
    logits = torch.tensor([[0.0, 3.0, 1.0, -1.0], [0.0, 0.0, -200.0, -300.0]])
    greedy, _ = Choices(frozenset({3}), Decoding(answer_tokens=1), logits, torch.empty(2, 0, 1)).answers()
    shares = np.exp(logits[0].numpy()) / np.exp(logits[0].numpy()).sum()
    assert [answer.first_gap for answer in greedy] == [2.0, 0.0]
    assert greedy[0].first_entropy == pytest.approx(-(shares * np.log(shares)).sum(), abs=1e-6)
    assert greedy[1].first_entropy == pytest.approx(np.log(2), abs=1e-6)
