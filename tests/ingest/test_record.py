import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from vlmlake import open_lake
from vlmlake.demo import checkpoints
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.extract import extract
from vlmlake.ingest.job import Job
from vlmlake.ingest.model_source import ModelSource
from vlmlake.store_schema.capture_plan import BUILT_IN, read_plan
from vlmlake.store_schema.run_record import RunRecord


@pytest.fixture
def model(tiny_llava, tmp_path):
    shutil.copytree(tiny_llava, tmp_path / "tiny-llava")
    return tmp_path / "tiny-llava"


@pytest.fixture
def job(model, scenes, tmp_path) -> Job:
    lake = str(tmp_path / "lake")
    return Job(ModelSource(str(model)), (f"pope:{scenes}",), lake, decoding=Decoding(answer_tokens=1), batch_size=100)


def record_of(job: Job) -> RunRecord:
    run = extract(job).run
    return open_lake(job.lake).run(run).record


def name_of(job: Job) -> str:
    return record_of(job).name


def test_a_record_says_what_decided_the_content(job):
    record = record_of(job)
    identity = record.identity
    assert identity["model"]["type"] == "llava"
    assert identity["model"]["dtype"] == "float32"
    assert identity["prompt_template"] == {
        "id": "llava-1.5-user-assistant",
        "text": "USER: {image}\n{question} ASSISTANT:",
    }
    assert identity["generation"] == {
        "greedy": True,
        "answer_tokens": 1,
        "samples": 0,
        "generation_config_not_applied": {},
    }
    assert identity["dataset"]["rows"] == record.examples == 96
    assert identity["dataset"]["kinds"] == ["pope"]
    assert record.rows < 96
    assert identity["attention"] == "sdpa"
    assert identity["stored_dtype"] == record.stored_dtype == "float16"
    assert identity["plan"] == {
        "name": "suffix",
        "arrays": list(record.arrays),
        "layers": ["embed", "block_0", "block_1", "block_2", "block_3"],
        "positions": ["prompt_last", "answer_0"],
        "batch_size": 100,
        "padding_side": "left",
        "shared_prefix": True,
    }
    assert set(BUILT_IN["suffix"]) < set(record.arrays)


def test_the_settings_of_the_draws_are_recorded_where_there_are_draws(job):
    drawn = record_of(replace(job, decoding=Decoding(1, samples=2, temperature=0.6, top_p=0.8, seed=5)))
    settings = {"answer_tokens": 1, "samples": 2, "temperature": 0.6, "top_p": 0.8, "seed": 5}
    assert settings.items() <= drawn.identity["generation"].items()


@pytest.mark.parametrize("folder", checkpoints(), ids=lambda folder: folder.name)
def test_every_family_records_its_template_and_what_it_shares(job, folder):
    record = record_of(replace(job, model=ModelSource(str(folder))))
    assert record.model == folder.name
    assert record.identity["plan"]["shared_prefix"] == (record.identity["model"]["type"] != "paligemma")
    assert record.identity["prompt_template"]["text"].count("{question}") == 1
    assert record.final_norm["epsilon"] > 0


def test_settings_that_generate_would_apply_and_we_do_not_are_recorded(job, model):
    config = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps({**config, "repetition_penalty": 1.8}))
    identity = record_of(job).identity
    assert identity["generation"]["generation_config_not_applied"] == {"repetition_penalty": 1.8}


def test_the_same_name_with_other_weights_is_another_run(job, model):
    first = name_of(job)
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(bytes(weights))
    second = name_of(job)
    assert first != second
    assert first.rpartition("-")[0] == second.rpartition("-")[0] == "tiny-llava"


def test_the_same_model_elsewhere_is_the_same_run(job, model, tmp_path):
    first = name_of(job)
    moved = shutil.move(str(model), str(tmp_path / "elsewhere" / "tiny-llava"))
    assert name_of(replace(job, model=ModelSource(moved))) == first


def test_the_same_data_elsewhere_is_the_same_run(job, scenes, tmp_path):
    first = name_of(job)
    moved = Path(shutil.copytree(scenes, tmp_path / "elsewhere"))
    assert name_of(replace(job, datasets=(f"pope:{moved}",))) == first


def test_settings_of_draws_that_there_are_not_make_no_other_run(job):
    assert name_of(job) == name_of(replace(job, decoding=Decoding(1, temperature=0.2, top_p=0.5, seed=9)))


@pytest.mark.parametrize(
    "change",
    [
        {"plan": read_plan("suffix", "float32")},
        {"plan": read_plan("readout")},
        {"plan": read_plan("suffix", blank=True)},
        {"plan": replace(read_plan("suffix"), layers=("embed", "block_1"))},
        {"plan": replace(read_plan("suffix"), positions=("prompt_last",))},
        {"decoding": Decoding(answer_tokens=2)},
        {"decoding": Decoding(answer_tokens=1, samples=1)},
        {"batch_size": 50},
        {"share_prefix": False},
    ],
    ids=["dtype", "plan", "blank", "layers", "positions", "answer length", "samples", "batch size", "unshared"],
)
def test_what_changes_the_content_is_another_run(job, change):
    assert name_of(job) != name_of(replace(job, **change))


def test_another_kernel_is_another_run(job):
    assert name_of(job) != name_of(replace(job, model=replace(job.model, attention="eager")))
