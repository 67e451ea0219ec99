"""A model in bfloat16 into a bfloat16 store: its own numbers bit for bit, and attention in float16."""

from __future__ import annotations

from functools import partial

import ml_dtypes
import numpy as np
import pytest
import torch

from tests.ingest.conftest import NAMES
from tests.ingest.jobs import job_of
from vlmlake.ingest.assemble import Finished, Scratch, batch_arrays
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.extract import survey_job
from vlmlake.ingest.families import Family, load_family
from vlmlake.ingest.first_batch import check_first_batch
from vlmlake.ingest.generation import run_batch
from vlmlake.ingest.host import as_array
from vlmlake.ingest.loader import load_ahead
from vlmlake.ingest.model_source import ModelSource
from vlmlake.ingest.work import plan_work
from vlmlake.store_schema.schema import ARRAYS

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = {spec.name for spec in ARRAYS if spec.is_float}
ATTENTION = {"attention", "readout_attention", "prefix_attention"}
COMPUTED = {"image_update"}
"""What is no number of the model's own, so that storing rounds it."""


@pytest.fixture(scope="module")
def family(tiny_llava):
    return load_family(ModelSource(str(tiny_llava), dtype="bfloat16"))


@pytest.fixture
def finished(family, tmp_path):
    """The first batch of a job as `dtype` would store it."""
    own = family

    def finish(dtype: str, plan: str = "full", family: Family = own) -> Finished:
        decoding = Decoding(answer_tokens=3, samples=2)
        job = job_of(family.model.name_or_path, "shapes:3@5", tmp_path, plan, dtype, blank=True, decoding=decoding)
        survey = survey_job(job)
        work = plan_work(job, family, survey.examples, survey.facts, {"name": "tiny"})
        ((_, asked),) = load_ahead(work, family, [0])
        forward = run_batch(family, work.wanted, asked, decoding, work.shared)
        return Finished(work.record, work.wanted, asked, forward, work.sees_suffix)

    return finish


def bits(values) -> np.ndarray:
    return np.asarray(values).view(np.uint16)


def test_states_are_the_models_own_bit_for_bit(family, finished):
    """Those that its blocks give: to the prefixes first, then to the suffixes, then to each token of the answers."""
    seen: dict[int, list[torch.Tensor]] = {}

    def see(number, module, arguments, output):
        stream = output[0] if isinstance(output, tuple) else output
        seen.setdefault(number, []).append(stream.clone())

    hooks = [block.register_forward_hook(partial(see, number)) for number, block in enumerate(family.blocks)]
    try:
        batch = finished("bfloat16")
    finally:
        for hook in hooks:
            hook.remove()
    arrays = batch_arrays(batch, Scratch())
    assert arrays["hidden_states"].dtype == arrays["prefix_states"].dtype == BFLOAT16
    for number, (prefix, suffix, *steps) in seen.items():
        assert prefix.dtype == torch.bfloat16
        for row, prompt in batch.prefixes():
            ours = arrays["prefix_states"][row, number + 1, : prompt.split]
            np.testing.assert_array_equal(bits(ours), bits(prefix[row, -prompt.split :].view(torch.int16)))
        for row, prompt, told in batch.rows():
            asked = prompt.suffix_length
            ours = arrays["hidden_states"][row, number + 1]
            np.testing.assert_array_equal(bits(ours[:asked]), bits(suffix[row, -asked:].view(torch.int16)))
            for step in range(told):
                theirs = steps[step][row, 0].view(torch.int16)
                np.testing.assert_array_equal(bits(ours[asked + step]), bits(theirs))
            assert np.isnan(ours[asked + told :].astype(np.float32)).all()


@pytest.mark.parametrize("plan", ["full", "readout"])
def test_every_array_is_what_a_wider_store_holds(finished, plan):
    ours, wide = (batch_arrays(finished(dtype, plan), Scratch()) for dtype in ("bfloat16", "float32"))
    for name in FLOATS & set(ours):
        stored = np.float16 if name in ATTENTION else BFLOAT16
        assert (ours[name].dtype, wide[name].dtype) == (stored, np.float32)
        rounded = wide[name].astype(stored)
        np.testing.assert_array_equal(bits(ours[name]), bits(rounded), err_msg=name)
        if name not in ATTENTION | COMPUTED:
            np.testing.assert_array_equal(rounded.astype(np.float32), wide[name], err_msg=name)
    assert {"readout_states", "logits", "blank_logits", "attn_write", *COMPUTED} < set(ours)


def test_rows_of_attention_sum_to_one_as_closely_as_in_float16(finished):
    attention = batch_arrays(finished("bfloat16"), Scratch())["attention"].astype(np.float64)
    there = ~np.isnan(attention).all(-1)
    sums = np.nansum(attention, -1)[there]
    assert np.abs(sums - 1).max() < 1e-3


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("model", NAMES)
def test_the_checks_of_the_first_batch_hold(model, dtype, checkpoints, finished):
    family = load_family(ModelSource(str(checkpoints[model]), dtype=dtype))
    check_first_batch(family, finished("bfloat16", family=family))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_tensor_and_its_array_share_their_memory(dtype):
    tensor = torch.arange(12).reshape(3, 4).to(dtype)
    array = as_array(tensor.T)
    assert array.shape == (4, 3)
    np.testing.assert_array_equal(array.astype(np.float32), tensor.T.float().numpy())
    tensor[0, 1] = 100
    assert float(array[1, 0]) == 100
