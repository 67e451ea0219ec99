"""How a model is loaded: kernels, dtypes, devices, families, and what is missing named at once."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import torch

from vlmlake import open_lake
from vlmlake.errors import VlmlakeError
from vlmlake.ingest import attention_rows
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.extract import extract
from vlmlake.ingest.families import FAMILIES, load_family, loading
from vlmlake.ingest.job import Job
from vlmlake.ingest.model_source import ModelSource


@pytest.fixture
def copied(checkpoints, tmp_path):
    """A copy of a tiny model whose config can be changed."""

    def copy(family: str, change=lambda config: None):
        folder = tmp_path / checkpoints[family].name
        shutil.copytree(checkpoints[family], folder)
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return copy


def arrays_of(folder, lake, **source):
    job = Job(
        ModelSource(str(folder), **source), ("shapes:3@5",), str(lake), decoding=Decoding(answer_tokens=2, samples=2)
    )
    return stored(job)


def stored(job):
    run = extract(job).run
    return open_lake(job.lake).run(run).dataset().load()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_with_and_without_weights(family, checkpoints):
    source = ModelSource(str(checkpoints[family]))
    whole, shapes = load_family(source), load_family(source, weights=False)
    assert type(whole) is type(shapes) is FAMILIES[family]
    assert whole.decoder == shapes.decoder
    assert shapes.device.type == "meta"
    size = (192, 192)
    prompts = [one.prompt("Is there a dog?", one.grid(size)) for one in (whole, shapes)]
    np.testing.assert_array_equal(prompts[0].ids, prompts[1].ids)
    np.testing.assert_array_equal(prompts[0].positions, prompts[1].positions)


def test_an_unknown_model_type_lists_what_is_supported(copied):
    folder = copied("llava", lambda config: config.update(model_type="llava_next"))
    with pytest.raises(
        VlmlakeError, match=r"llava_next is not supported: expected llava, paligemma, qwen2_vl; docs/adding-a-family.md"
    ):
        load_family(ModelSource(str(folder)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("part", ["model.language_model.layers.1.mlp", "model.language_model.norm", "lm_head"])
def test_a_missing_part_is_named_when_a_model_is_loaded(family, part, checkpoints):
    loaded = load_family(ModelSource(str(checkpoints[family])))
    owner, _, name = part.rpartition(".")
    delattr(loaded.model.get_submodule(owner), name)
    with pytest.raises(VlmlakeError, match=rf"{family}.* has no part {part}"):
        type(loaded)(loaded.model, loaded.tokenizer, loaded.image_processor)


def test_a_tower_and_a_processor_of_different_sizes_are_refused(copied):
    folder = copied("paligemma", lambda config: config["vision_config"].update(image_size=56))
    with pytest.raises(VlmlakeError, match="the image processor makes 48 x 48 pixels, the vision tower takes 56 x 56"):
        load_family(ModelSource(str(folder)), weights=False).grid((192, 192))


def test_a_decoder_that_norms_what_its_blocks_write_is_refused(copied):
    """PaliGemma 2 has PaliGemma's model type and Gemma 2's decoder."""
    folder = copied("paligemma", lambda config: config["text_config"].update(model_type="gemma2"))
    with pytest.raises(VlmlakeError, match="has a gemma2 decoder, paligemma is supported with gemma"):
        load_family(ModelSource(str(folder)), weights=False)


def test_class_tokens_among_the_image_tokens_are_refused(copied):
    folder = copied("llava", lambda config: config.update(vision_feature_select_strategy="full"))
    with pytest.raises(VlmlakeError, match="vision_feature_select_strategy is 'full'"):
        load_family(ModelSource(str(folder)))


def test_code_of_a_checkpoint_is_not_run_unless_trusted(copied):
    def foreign(config):
        config.update(model_type="mine", auto_map={"AutoConfig": "configuration_mine.MineConfig"})

    folder = copied("llava", foreign)
    (folder / "configuration_mine.py").write_text("raise SystemExit('the code of the checkpoint ran')\n")
    with pytest.raises(VlmlakeError, match="cannot load the model"):
        load_family(ModelSource(str(folder)))
    with pytest.raises(SystemExit, match="the code of the checkpoint ran"):
        load_family(ModelSource(str(folder), trust_remote_code=True))


def test_a_pickle_among_the_weights_runs_nothing(copied, tmp_path):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    folder = copied("llava")
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Malicious()}, folder / "pytorch_model.bin")
    with pytest.raises(VlmlakeError, match=r"^cannot load the model .*: UnpicklingError: [^\n]*$"):
        load_family(ModelSource(str(folder)))
    assert not (tmp_path / "executed").exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "executed").exists()


def test_weights_in_torchs_own_format_load_as_those_in_safetensors(copied, checkpoints):
    folder = copied("llava")
    wanted = load_family(ModelSource(str(folder))).model.state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(wanted, folder / "pytorch_model.bin")
    loaded = load_family(ModelSource(str(folder))).model.state_dict()
    assert all(torch.equal(values, wanted[name]) for name, values in loaded.items())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "the model is empty"),
        ({"dtype": "int8"}, "model dtype is int8, expected one of auto, float32, bfloat16, float16"),
        ({"attention": "flex"}, "attention is flex, expected one of sdpa, flash_attention_2, eager"),
    ],
)
def test_bad_sources_are_refused(fields, message):
    with pytest.raises(VlmlakeError, match=message):
        ModelSource(**{"name": "somewhere", **fields})


def test_flash_attention_says_what_it_needs(checkpoints, monkeypatch):
    with pytest.raises(VlmlakeError, match="needs a CUDA device and the package flash-attn"):
        load_family(ModelSource(str(checkpoints["llava"]), attention="flash_attention_2"))
    monkeypatch.setattr(loading, "is_flash_attn_2_available", lambda: True)
    with pytest.raises(VlmlakeError, match="cannot attend both ways over a prompt, which paligemma does"):
        load_family(ModelSource(str(checkpoints["paligemma"]), attention="flash_attention_2"))


@pytest.mark.parametrize("share_prefix", [True, False])
def test_the_flash_kernel_gets_masks_that_it_can_take(share_prefix, checkpoints, tmp_path, monkeypatch):
    """In place of the kernel, one that takes what flash attention takes: causal order, and padding by the token."""
    calls = []

    def flash(query, key, value, attention_mask, query_length, is_causal, softmax_scale, attn_implementation):
        assert is_causal
        assert attn_implementation == "flash_attention_2"
        queries, keys = query.shape[1], key.shape[1]
        assert query_length == queries
        calls.append(queries)
        mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
        if attention_mask is not None:
            assert attention_mask.shape == (len(query), keys)
            mask = mask & attention_mask.bool()[:, None, None, :]
        output = torch.nn.functional.scaled_dot_product_attention(
            *(states.transpose(1, 2) for states in (query, key, value)), attn_mask=mask, scale=softmax_scale
        )
        return output.transpose(1, 2)

    plain = arrays_of(checkpoints["llava"], tmp_path / "sdpa")
    monkeypatch.setattr(loading, "is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(attention_rows, "_flash_attention_forward", flash)
    job = Job(
        ModelSource(str(checkpoints["llava"]), attention="flash_attention_2"),
        ("shapes:3@5",),
        str(tmp_path / "flash"),
        decoding=Decoding(answer_tokens=2, samples=2),
        share_prefix=share_prefix,
    )
    ours = stored(job)
    assert calls
    ours = ours.sel(example=plain["example"].values)
    for name in ("hidden_states", "attention", "logits"):
        np.testing.assert_allclose(ours[name], plain[name], atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(
    "source", [{"dtype": "bfloat16"}, {"dtype": "float16"}, {"attention": "eager"}, {"device_map": "auto"}], ids=str
)
def test_other_dtypes_kernels_and_placements_give_the_same_within_their_precision(source, checkpoints, tmp_path):
    plain = arrays_of(checkpoints["llava"], tmp_path)
    other = arrays_of(checkpoints["llava"], tmp_path, **source)
    assert len(open_lake(str(tmp_path)).runs) == (1 if "device_map" in source else 2)
    tolerance = {"bfloat16": 0.3, "float16": 0.05}.get(source.get("dtype"), 2e-3)
    first = "prompt_last"
    np.testing.assert_allclose(
        other["logits"].sel(position=first), plain["logits"].sel(position=first), atol=tolerance * 10, rtol=tolerance
    )


def test_a_device_map_that_there_is_not_is_refused(checkpoints):
    with pytest.raises(VlmlakeError, match=r"cannot load the model .*device_map"):
        load_family(ModelSource(str(checkpoints["llava"]), device_map="nonsense"))
