"""Which patches are covered: ranked ones by the attention given, drawn ones by seed, member and image."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ingest.interventions.small_runs import EXAMPLES, IMAGES, QUESTIONS, small_run
from vlmlake.errors import NotKeptError, UnknownNameError, VlmlakeError
from vlmlake.ingest.interventions.masks.patches import attended, masks_of, random_patches
from vlmlake.ingest.interventions.masks.saliency import image_attention
from vlmlake.ingest.interventions.requests.masking import DEFAULT_SETS, Masking, MaskSet, parse_sets
from vlmlake.store_schema.run import Run

SHA = "ab" * 32


@pytest.fixture(scope="module")
def run(folders, tmp_path_factory) -> Run:
    """Of a family whose grids differ with the image's shape."""
    return small_run(folders["tiny_qwen2_vl"], tmp_path_factory.mktemp("run"))


def test_the_highest_and_the_lowest_are_taken():
    weights = np.array([0.1, 0.5, 0.2, 0.9, 0.3], np.float32)
    assert attended(weights, 0.4, highest=True) == (1, 3)
    assert attended(weights, 0.4, highest=False) == (0, 2)
    assert attended(weights, 1.0, highest=True) == attended(weights, 1, highest=False) == (0, 1, 2, 3, 4)


def test_of_equal_patches_the_first_are_taken():
    weights = np.array([0.5, 0.1, 0.5, 0.1, 0.5, 0.1], np.float32)
    assert attended(weights, 0.34, highest=True) == (0, 2)
    assert attended(weights, 0.34, highest=False) == (1, 3)


@pytest.mark.parametrize(
    ("share", "count", "covered"),
    [(0.3, 576, 172), (0.3, 256, 76), (0.3, 10, 3), (0.29, 100, 29), (0.3, 4, 1), (1 / 3, 10, 3), (1.0, 36, 36)],
)
def test_the_number_is_the_share_rounded_down(share, count, covered):
    assert len(attended(np.arange(count, dtype=np.float32), share, highest=True)) == covered
    assert len(random_patches(0, 0, SHA, count, share)) == covered


def test_a_share_that_covers_nothing_or_more_than_all_is_refused():
    for make in (
        lambda share: attended(np.ones(36, np.float32), share, highest=True),
        lambda share: random_patches(0, 0, SHA, 36, share),
    ):
        with pytest.raises(VlmlakeError, match=r"a share of 0.02 is less than one of 36 patches"):
            make(0.02)
        for share in (0, -0.1, 1.01, float("nan")):
            with pytest.raises(VlmlakeError, match=f"share of the patches is {share}, expected above 0 and at most 1"):
                make(share)


def test_draws_are_those_of_every_machine():
    assert random_patches(0, 0, SHA, 36, 0.3) == (0, 9, 16, 17, 18, 22, 25, 28, 32, 35)


def test_draws_differ_by_seed_member_and_image():
    drawn = {
        random_patches(seed, member, image, 576, 0.3)
        for seed in range(3)
        for member in range(5)
        for image in (SHA, SHA[::-1])
    }
    assert len(drawn) == 30


def test_draws_cover_every_patch_alike():
    """4000 draws of 10 of 36: each patch 1111 times, give or take 28."""
    drawn = np.concatenate([random_patches(1, member, SHA, 36, 0.3) for member in range(4000)])
    counts = np.bincount(drawn, minlength=36)
    assert np.abs(counts - 4000 * 10 / 36).max() < 4.5 * np.sqrt(4000 * 10 / 36 * 26 / 36)


def test_masks_of_every_set_member_and_example(run):
    masking = Masking(share=0.25, sets=parse_sets("low,high,random:3"), layer="block_1", reduction="max", seed=7)
    found = masks_of(run, EXAMPLES, masking)
    assert list(found) == [("low", 0), ("high", 0), ("random", 0), ("random", 1), ("random", 2)]
    weights = image_attention(run, EXAMPLES, "block_1", "max")
    digests = dict(run.examples().select("example", "image_sha256").iter_rows())
    assert len({len(one) for one in weights.values()}) > 1
    for (name, member), patches in found.items():
        assert set(patches) == set(EXAMPLES)
        for example in EXAMPLES:
            count = len(weights[example])
            if name == "random":
                assert patches[example] == random_patches(7, member, digests[example], count, 0.25)
            else:
                assert patches[example] == attended(weights[example], 0.25, name == "high")


def test_questions_of_an_image_share_their_random_sets_and_no_others(run):
    found = masks_of(run, EXAMPLES, Masking())
    assert len(found) == 22
    for (name, _), patches in found.items():
        if name == "random":
            by_image = {image: set() for image in IMAGES}
            for example, (image, _) in zip(EXAMPLES, QUESTIONS, strict=True):
                by_image[image].add(patches[example])
            assert [len(sets) for sets in by_image.values()] == [1, 1, 1]
    assert len({found["high", 0][example] for example in EXAMPLES}) > len(IMAGES)


def test_masks_are_those_of_the_examples_however_many_are_asked_for(run):
    whole = masks_of(run, EXAMPLES, Masking())
    part = masks_of(run, [EXAMPLES[4], EXAMPLES[1]], Masking())
    for key, patches in part.items():
        assert patches == {example: whole[key][example] for example in (EXAMPLES[4], EXAMPLES[1])}


def test_random_sets_alone_need_no_attention(folders, run, tmp_path):
    plan = tmp_path / "states.toml"
    plan.write_text('arrays = ["readout_states"]\n')
    without = small_run(folders["tiny_qwen2_vl"], tmp_path, str(plan))
    sets = (MaskSet("random", 2),)
    assert masks_of(without, EXAMPLES, Masking(sets=sets)) == masks_of(run, EXAMPLES, Masking(sets=sets))
    with pytest.raises(NotKeptError, match="keeps no attention"):
        masks_of(without, EXAMPLES, Masking())


def test_what_the_run_does_not_have_is_refused(run):
    with pytest.raises(UnknownNameError, match="no attention at layer block_9"):
        masks_of(run, EXAMPLES, Masking(layer="block_9"))
    with pytest.raises(UnknownNameError, match="no example nobody"):
        masks_of(run, ["nobody"], Masking(sets=(MaskSet("random"),)))
    with pytest.raises(VlmlakeError, match=r"a share of 0.001 is less than one of"):
        masks_of(run, EXAMPLES, Masking(share=0.001))


def test_sets_are_read_as_they_are_typed():
    assert parse_sets("high,low,random:20") == parse_sets(" high, low ,random") == DEFAULT_SETS == Masking().sets
    assert parse_sets("random:3") == (MaskSet("random", 3),)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("high,middle", "unknown set of patches 'middle', expected some of high, low, random"),
        ("", "unknown set of patches ''"),
        ("high,", "unknown set of patches ''"),
        ("random:0", "0 random sets of patches, expected at least 1"),
        ("random:-1", "'random:-1' does not say how many"),
        ("random:", "'random:' does not say how many"),
        ("random:many", "'random:many' does not say how many sets of patches: expected a number, as in random:20"),
        ("high:2", "2 sets of patches high: there is one"),
    ],
)
def test_sets_that_there_are_not_are_refused(text, told):
    with pytest.raises(VlmlakeError, match=told):
        parse_sets(text)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"share": 0.0}, "share of the patches is 0.0, expected above 0 and at most 1"),
        ({"share": 1.5}, "share of the patches is 1.5"),
        ({"reduction": "sum"}, "reduction of the heads is 'sum', expected mean or max"),
        ({"sets": ()}, "sets of patches are none: expected at least one"),
        ({"sets": (MaskSet("high"), MaskSet("high"))}, "sets of patches are high, high: .* each once"),
        ({"sets": (MaskSet("random", 2), MaskSet("random", 3))}, "sets of patches are random, random: .* each once"),
    ],
)
def test_a_request_that_means_nothing_is_refused(fields, told):
    with pytest.raises(VlmlakeError, match=told):
        Masking(**fields)
