import json
import shutil

import pytest

from vlmlake import open_lake
from vlmlake.ingest.extract import extract
from vlmlake.ingest.job import Job


@pytest.fixture
def model(tiny_llava, tmp_path):
    shutil.copytree(tiny_llava, tmp_path / "tiny-llava")
    return tmp_path / "tiny-llava"


def record_of(model, scenes, lake):
    run = extract(Job(str(model), f"pope:{scenes}", str(lake), answer_tokens=1)).run
    return open_lake(str(lake)).run(run).record


def test_a_record_says_what_decided_the_content(model, scenes, tmp_path):
    identity = record_of(model, scenes, tmp_path / "lake").identity
    assert identity["model"]["type"] == "llava"
    assert identity["model"]["dtype"] == "float32"
    assert identity["prompt_template"] == {
        "id": "llava-1.5-user-assistant",
        "text": "USER: {image}\n{question} ASSISTANT:",
    }
    assert identity["generation"] == {"greedy": True, "answer_tokens": 1, "generation_config_not_applied": {}}
    assert identity["dataset"]["rows"] == 96


def test_settings_that_generate_would_apply_and_we_do_not_are_recorded(model, scenes, tmp_path):
    config = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps({**config, "repetition_penalty": 1.8}))
    identity = record_of(model, scenes, tmp_path / "lake").identity
    assert identity["generation"]["generation_config_not_applied"] == {"repetition_penalty": 1.8}


def test_the_same_name_with_other_weights_is_another_run(model, scenes, tmp_path):
    first = record_of(model, scenes, tmp_path / "lake").name
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(bytes(weights))
    second = record_of(model, scenes, tmp_path / "lake").name
    assert first != second
    assert first.rpartition("-")[0] == second.rpartition("-")[0] == "tiny-llava"


def test_the_same_model_elsewhere_is_the_same_run(model, scenes, tmp_path):
    first = record_of(model, scenes, tmp_path / "lake").name
    moved = shutil.move(str(model), str(tmp_path / "elsewhere" / "tiny-llava"))
    assert record_of(moved, scenes, tmp_path / "lake").name == first
