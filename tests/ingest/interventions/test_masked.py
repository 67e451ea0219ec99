"""Questions about masked images: which share a prefix, and what the model gets to see."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.ingest.interventions.processed import noise
from vlmlake.errors import VlmlakeError
from vlmlake.ingest.capture import Wanted
from vlmlake.ingest.datasets.image_source import FileImage
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.generation import run_batch
from vlmlake.ingest.interventions.masks.gray import cover
from vlmlake.ingest.interventions.masks.masked import masked_questions
from vlmlake.ingest.items import Item
from vlmlake.store_schema.batches import Lengths

WANTED = Wanted(frozenset(["logits"]), (1,), (0,), torch.float32, torch.float32)
IMAGES = [noise((60, 44), 1), noise((44, 60), 2)]
ASKED = ((0, "Circle?"), (0, "Is there a red circle in the image?"), (0, "Cross?"), (1, "Circle?"), (1, "Cross?"))
PATCHES = ((0, 3), (3, 0), (0, 2), (0, 3), ())
"""Of two questions about one image equal, in another order; of those of the other none equal to another's."""


def batch(family, patches=PATCHES, shared=True):
    items, prompts = [], []
    for number, question in ASKED:
        image = IMAGES[number]
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        prompt = family.prompt(question, family.grid(image.size))
        source = FileImage(Path(f"{number}.png"))
        items.append(Item((0,), source, digest, image.size, question, Lengths(prompt.split, prompt.suffix_length)))
        prompts.append(prompt)
    images = [IMAGES[number] for number, _ in ASKED]
    return items, masked_questions(family, items, images, prompts, patches, shared)


def by_hand(family, place):
    image, prompt = IMAGES[ASKED[place][0]], family.prompt(ASKED[place][1], family.grid(IMAGES[ASKED[place][0]].size))
    return family.image_inputs(cover(image, family.seen_region(image.size), prompt.grid, PATCHES[place]))


@pytest.mark.parametrize("shared", [True, False])
def test_every_question_sees_its_own_covered_image(family, shared):
    items, asked = batch(family, shared=shared)
    assert asked.keys == [item.key for item in items]
    for place in range(len(ASKED)):
        found, wanted = asked.images[asked.prefix_of[place]], by_hand(family, place)
        assert found.grid == wanted.grid == asked.prompts[place].grid
        for name, values in wanted.arguments.items():
            assert torch.equal(found.arguments[name], values)


def test_questions_of_one_image_and_equal_patches_share_a_prefix(family):
    _, asked = batch(family)
    assert list(asked.prefix_of) == [0, 0, 1, 2, 3]
    assert len(asked.images) == 4


def test_without_sharing_every_question_has_its_own_image(family):
    _, asked = batch(family, shared=False)
    assert list(asked.prefix_of) == list(range(5))
    assert len(asked.images) == 5
    assert asked.images[0] is asked.images[1]


def test_the_model_answers_alike_shared_or_not_and_otherwise_than_unmasked(family):
    def told(patches, shared) -> np.ndarray:
        """Of the first token's distribution: [questions, 3]."""
        _, asked = batch(family, patches, shared)
        forward = run_batch(family, WANTED, asked, Decoding(answer_tokens=1), shared)
        return np.array([(one.log_probs[0], one.first_gap, one.first_entropy) for one in forward.answers])

    apart = told(PATCHES, shared=False)
    if not family.image_sees_question:
        np.testing.assert_allclose(told(PATCHES, shared=True), apart, atol=1e-4)
    every = [range(np.prod(family.grid(IMAGES[number].size))) for number, _ in ASKED]
    assert np.abs(told(every, shared=False) - told([()] * 5, shared=False)).max() > 1e-3


def test_an_image_that_is_not_the_prompts_is_refused(family):
    items, asked = batch(family)
    other = replace(asked.prompts[0], grid=(asked.prompts[0].grid[0] + 1, asked.prompts[0].grid[1]))
    with pytest.raises(VlmlakeError, match=r"the masked image 0.png has \d+ x \d+ image tokens, its prompt \d+ x \d+"):
        masked_questions(family, items[:1], IMAGES[:1], [other], [(0,)], shared=True)


def test_patches_that_the_image_does_not_have_are_refused(family):
    with pytest.raises(VlmlakeError, match=r"patches has no patch 100000"):
        batch(family, [(0,), (0,), (0,), (0,), (100000,)])
