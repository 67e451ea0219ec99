"""Random models to measure: real transformers classes, published or smaller shapes, the shipped tokenizers.

What a model answers is noise; how long it takes is not. Weights come from transformers' own initialisation, seeded,
made on the device that the model runs on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GemmaConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig, Qwen2VLVisionConfig

import vlmlake
from vlmlake.ingest.attention_rows import IMPLEMENTATIONS
from vlmlake.ingest.families.base import Family
from vlmlake.ingest.families.llava import Llava
from vlmlake.ingest.families.paligemma import PaliGemma
from vlmlake.ingest.families.qwen2_vl import Qwen2VL

CHECKPOINTS = Path(vlmlake.__file__).parent / "ingest" / "checkpoints"
SEED = 0
LOGIT_SPREAD = 3.0
"""Standard deviation of the logits. Untouched random ones are so flat that a nucleus of 0.9 holds most of the
vocabulary; at 3 it holds about a hundred tokens, still more than a trained model's."""


@dataclass(frozen=True)
class Shape:
    """vision, text: what the two configurations are given. image_token: the placeholder in the shipped tokenizer."""

    title: str
    vision: dict[str, Any]
    text: dict[str, Any]


def _llava(shape: Shape, image_token: int) -> tuple[Any, Any, type[Any]]:
    side = shape.vision["image_size"]
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**shape.vision),
        text_config=LlamaConfig(**shape.text),
        image_token_id=image_token,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=(side // shape.vision["patch_size"]) ** 2,
    )
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return config, processor, LlavaForConditionalGeneration


def _paligemma(shape: Shape, image_token: int) -> tuple[Any, Any, type[Any]]:
    side, width = shape.vision["image_size"], shape.text["hidden_size"]
    config = PaliGemmaConfig(
        vision_config=SiglipVisionConfig(**shape.vision, projection_dim=width),
        text_config=GemmaConfig(**shape.text),
        image_token_id=image_token,
        projection_dim=width,
        hidden_size=width,
    )
    return config, SiglipImageProcessorPil(size={"height": side, "width": side}), PaliGemmaForConditionalGeneration


def _qwen2_vl(shape: Shape, image_token: int) -> tuple[Any, Any, type[Any]]:
    config = Qwen2VLConfig(
        vision_config=Qwen2VLVisionConfig(**shape.vision).to_dict(),
        text_config=Qwen2VLTextConfig(**shape.text).to_dict(),
        image_token_id=image_token,
    )
    return config, Qwen2VLImageProcessorPil(), Qwen2VLForConditionalGeneration


BUILDERS: dict[str, tuple[Callable[[Shape, int], tuple[Any, Any, type[Any]]], type[Family], str]] = {
    "llava": (_llava, Llava, "<image>"),
    "paligemma": (_paligemma, PaliGemma, "<image>"),
    "qwen2_vl": (_qwen2_vl, Qwen2VL, "<|image_pad|>"),
}

MID = Shape(
    "LLaVA: 12 blocks of 512, 8 heads, vocabulary 32,064, 576 image tokens; a vision tower of 3 layers of 256, so that "
    "the decoder dominates",
    vision={
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 336,
        "patch_size": 14,
    },
    text={
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "vocab_size": 32064,
    },
)

DEEP = Shape(
    "LLaVA: 32 blocks of 256, 8 heads, 576 image tokens; a vocabulary of 2,048, so that the unembedding weighs beside "
    "a block what it does in LLaVA-1.5-7B; a vision tower of 2 layers of 128",
    vision={
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 336,
        "patch_size": 14,
    },
    text={
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 32,
        "num_attention_heads": 8,
        "vocab_size": 2048,
    },
)

PUBLISHED = {
    "llava": Shape(
        "LLaVA-1.5-7B",
        vision={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 336,
            "patch_size": 14,
            "projection_dim": 768,
        },
        text={
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "vocab_size": 32064,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
        },
    ),
    "paligemma": Shape(
        "PaliGemma-3B, 224 px",
        vision={
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 14,
            "vision_use_head": False,
        },
        text={
            "hidden_size": 2048,
            "intermediate_size": 16384,
            "num_hidden_layers": 18,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "vocab_size": 257216,
        },
    ),
    "qwen2_vl": Shape(
        "Qwen2-VL-7B",
        vision={"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "num_heads": 16, "mlp_ratio": 4},
        text={
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]},
        },
    ),
}

_SMALL_TEXT = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 2048,
}
_SMALL_TOWER = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 112,
    "patch_size": 14,
}
SMALL = {
    "llava": Shape("LLaVA, small", vision=_SMALL_TOWER, text=_SMALL_TEXT),
    "paligemma": Shape(
        "PaliGemma, small",
        vision={**_SMALL_TOWER, "vision_use_head": False},
        text={**_SMALL_TEXT, "num_key_value_heads": 1, "head_dim": 32},
    ),
    "qwen2_vl": Shape(
        "Qwen2-VL, small",
        vision={"depth": 2, "embed_dim": 64, "hidden_size": 128, "num_heads": 2, "mlp_ratio": 2},
        text={
            **_SMALL_TEXT,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [4, 6, 6]},
        },
    ),
}

SMALL_DEEP = Shape(
    "LLaVA, small: 32 blocks of 128, 4 heads, 64 image tokens",
    vision=_SMALL_TOWER,
    text={**_SMALL_TEXT, "num_hidden_layers": 32},
)

SHAPES: dict[str, dict[str, Shape]] = {
    "mid": {"llava": MID},
    "deep": {"llava": DEEP},
    "published": PUBLISHED,
    "small": SMALL,
    "small-deep": {"llava": SMALL_DEEP},
}


def build(name: str, shape: Shape, device: str, dtype: torch.dtype) -> Family:
    """A random model of one family on its device, as `load_family` would give it."""
    builder, family, image_token = BUILDERS[name]
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS / f"tiny-{name.replace('_', '-')}")
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**shape.text, **ends, "pad_token_id": tokenizer.pad_token_id}
    config, processor, model_class = builder(
        Shape(shape.title, shape.vision, text), tokenizer.convert_tokens_to_ids(image_token)
    )
    config._commit_hash = None  # where from_pretrained notes the commit of a hub id
    attention = {"text_config": IMPLEMENTATIONS["sdpa"], "vision_config": "sdpa"}
    torch.manual_seed(SEED)
    with torch.device(device):
        model = model_class._from_config(config, dtype=dtype, attn_implementation=attention)
    with torch.no_grad():
        weight = model.lm_head.weight
        weight *= LOGIT_SPREAD / (float(weight.float().std()) * weight.shape[1] ** 0.5)
    return family(model.eval(), tokenizer, processor)


def save(family: Family, folder: Path) -> Path:
    """What save_pretrained writes, so that a pass loads it as it loads a real checkpoint."""
    for part in (family.model, family.tokenizer, family.image_processor):
        part.save_pretrained(folder)
    return folder
