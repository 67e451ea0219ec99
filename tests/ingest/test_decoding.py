import numpy as np
import pytest
import torch

from tests.ingest.plain import nucleus
from vlmlake.errors import VlmlakeError
from vlmlake.ingest.decoding import Decoding, draw_from_nucleus

GRID = 20_000
"""Uniforms per distribution, evenly spread: a token's share of the draws is its probability within 1 / GRID."""


def distributions(vocab: int = 24) -> torch.Tensor:
    """Spread ones, a peaked one and one that is nearly flat; no two tokens are equally likely."""
    spread = torch.randn((4, vocab), generator=torch.Generator().manual_seed(0))
    peaked, flat = torch.linspace(0, 1, vocab), torch.linspace(0, 0.01, vocab)
    peaked[5] = 6.0
    return torch.stack([*spread, peaked, flat])


def even_uniforms(rows: int) -> torch.Tensor:
    return ((torch.arange(GRID) + 0.5) / GRID).expand(rows, -1)


@pytest.mark.parametrize("top_p", [1e-6, 0.2, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 0.7, 1.0, 2.5])
def test_draws_have_the_support_and_the_shares_of_transformers_warpers(temperature, top_p):
    logits = distributions()
    wanted = nucleus(logits, temperature, top_p)
    drawn = draw_from_nucleus(logits, even_uniforms(len(logits)), temperature, top_p)
    shares = torch.stack([row.bincount(minlength=logits.shape[1]) for row in drawn]) / GRID
    kept = wanted > 0
    often = wanted > 1.5 / GRID
    assert (shares[~kept] == 0).all()
    assert (shares[often] > 0).all()
    torch.testing.assert_close(shares, wanted, rtol=0, atol=2 / GRID)


def test_where_the_nucleus_ends_among_equals_the_first_of_them_are_kept():
    logits = torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0]])
    drawn = draw_from_nucleus(logits, even_uniforms(1), 1.0, top_p=0.5)
    assert (nucleus(logits, 1.0, 0.5) > 0).sum() == 2
    assert drawn[0].bincount(minlength=5).tolist() == [0, GRID // 2, GRID // 2, 0, 0]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1e-6), (1e-3, 1.0), (1e-3, 1e-6)])
def test_next_to_no_temperature_and_next_to_no_nucleus_give_the_likeliest_token(temperature, top_p):
    logits = distributions()[:5]
    drawn = draw_from_nucleus(logits, even_uniforms(5), temperature, top_p)
    assert (drawn == logits.argmax(-1, keepdim=True)).all()


@pytest.mark.parametrize("top_p", [0.3, 1.0])
def test_the_ends_of_the_unit_interval_give_the_likeliest_and_the_least_likely_kept_token(top_p):
    logits = distributions()[:4]
    ends = torch.tensor([0.0, 1.0]).expand(4, -1)
    drawn = draw_from_nucleus(logits, ends, 1.0, top_p)
    wanted = nucleus(logits, 1.0, top_p)
    assert drawn[:, 0].tolist() == wanted.argmax(-1).tolist()
    assert drawn[:, 1].tolist() == torch.where(wanted > 0, wanted, 2).argmin(-1).tolist()


def test_a_number_between_two_tokens_belongs_to_the_less_likely_one():
    logits = torch.tensor([[0.0, 0.0, -200.0]])
    assert draw_from_nucleus(logits, torch.tensor([[0.0, 0.25, 0.5, 0.75]]), 1.0, 1.0).tolist() == [[0, 0, 1, 1]]


def test_each_row_is_drawn_from_its_own_distribution_whatever_stands_beside_it():
    logits, uniforms = distributions(), torch.rand((6, 50), generator=torch.Generator().manual_seed(1))
    together = draw_from_nucleus(logits, uniforms, 0.8, 0.9)
    alone = [draw_from_nucleus(logits[row : row + 1], uniforms[row : row + 1], 0.8, 0.9) for row in range(6)]
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(together, draw_from_nucleus(logits, uniforms, 0.8, 0.9))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"answer_tokens": 0}, "answer tokens is 0, expected at least 1"),
        ({"samples": -1}, "samples is -1, expected 0 or more"),
        ({"temperature": 0.0}, "temperature is 0.0, expected a number above 0"),
        ({"temperature": -1.0}, "temperature is -1.0, expected a number above 0"),
        ({"temperature": float("inf")}, "temperature is inf, expected a number above 0"),
        ({"temperature": float("nan")}, "temperature is nan, expected a number above 0"),
        ({"top_p": 0.0}, "top-p is 0.0, expected a number above 0 and at most 1"),
        ({"top_p": 1.5}, "top-p is 1.5, expected a number above 0 and at most 1"),
        ({"top_p": float("nan")}, "top-p is nan, expected a number above 0 and at most 1"),
    ],
)
def test_settings_out_of_range_are_refused(bad, message):
    with pytest.raises(VlmlakeError) as refusal:
        Decoding(**bad)
    assert str(refusal.value) == message


def test_uniforms_come_from_the_seed_and_the_key_alone():
    first = Decoding(answer_tokens=4, samples=3, temperature=0.7, top_p=0.9, seed=1).uniforms("image\nquestion")
    same = Decoding(answer_tokens=4, samples=3, temperature=2.0, top_p=0.1, seed=1).uniforms("image\nquestion")
    np.testing.assert_array_equal(first, same)
    assert (first.shape, first.dtype) == ((3, 4), np.float32)


@pytest.mark.parametrize(("seed", "key"), [(2, "image\nquestion"), (1, "image\nquestion?"), (1, "other\nquestion")])
def test_another_seed_or_key_gives_other_uniforms(seed, key):
    first = Decoding(answer_tokens=4, samples=3, seed=1).uniforms("image\nquestion")
    other = Decoding(answer_tokens=4, samples=3, seed=seed).uniforms(key)
    assert not np.isclose(first, other).any()


def test_uniforms_are_spread_evenly_over_keys_samples_and_tokens():
    decoding = Decoding(answer_tokens=5, samples=4)
    draws = np.stack([decoding.uniforms(f"image\n{number}") for number in range(500)])
    assert draws.min() >= 0
    assert draws.max() <= 1
    np.testing.assert_allclose(draws.mean(0), 0.5, atol=0.06)
    counts, _ = np.histogram(draws, bins=10, range=(0, 1))
    np.testing.assert_allclose(counts / draws.size, 0.1, atol=0.015)
