"""Plans of one array each, with and without a shared prefix: no forward leaves what nobody wanted, the checks hold."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ingest.jobs import job_of, run_job
from tests.ingest.plain import CHECKPOINTS
from vlmlake.store_schema.capture_plan import CHOOSABLE, CapturePlan, read_plan


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Everything, by model and whether prefixes are shared."""
    kept = {}
    for model in ("tiny-llava", "tiny-paligemma"):
        for share in (True, False):
            job = job_of(CHECKPOINTS / model, "shapes:2@3", tmp_path_factory.mktemp("lake"), "full", share_prefix=share)
            kept[model, share] = run_job(job).dataset().load()
    return kept


@pytest.mark.parametrize("share", [True, False], ids=["shared", "unshared"])
@pytest.mark.parametrize("model", ["tiny-llava", "tiny-paligemma"])
@pytest.mark.parametrize("array", [name for name in CHOOSABLE if name != "readout_attention"])
def test_one_array_alone_is_what_the_full_plan_keeps(array, model, share, whole, tmp_path):
    job = job_of(CHECKPOINTS / model, "shapes:2@3", tmp_path, share_prefix=share)
    alone = CapturePlan("alone", (array,), dtype="float32")
    data = run_job(type(job)(**{**vars(job), "plan": alone})).dataset().load()
    assert set(read_plan("full").arrays) & set(data.data_vars) == {array}
    np.testing.assert_allclose(data[array], whole[model, share][array], atol=1e-5)
