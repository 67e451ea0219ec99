"""Random models of other shapes than the shipped ones, saved the way real checkpoints are.

Other numbers of blocks, heads, key-value heads and image tokens, and weights large enough to make long answers.
"""

from __future__ import annotations

from pathlib import Path

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

PIXELS, PATCH = 35, 7
TEXT = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "head_dim": 8, "initializer_range": 0.2}
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "image_size": PIXELS,
    "patch_size": PATCH,
}


def save_random_llava(folder: Path, tokenizer_from: Path, seed: int = 3) -> Path:
    """Three blocks of six heads over two key-value heads, and a 5 x 5 image grid."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_from)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**TOWER, num_hidden_layers=3, projection_dim=32),
        text_config=LlamaConfig(**TEXT, **_special_tokens(tokenizer), num_attention_heads=6, num_key_value_heads=2),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=25,
    )
    processor = CLIPImageProcessorPil(size={"shortest_edge": PIXELS}, crop_size={"height": PIXELS, "width": PIXELS})
    return _save(LlavaForConditionalGeneration(config), tokenizer, processor, folder)


def save_random_paligemma(folder: Path, tokenizer_from: Path, seed: int = 4) -> Path:
    """Three blocks of six heads over three key-value heads, and a 5 x 5 image grid."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_from)
    config = PaliGemmaConfig(
        vision_config=SiglipVisionConfig(**TOWER, num_hidden_layers=2, vision_use_head=False),
        text_config=GemmaConfig(**TEXT, **_special_tokens(tokenizer), num_attention_heads=6, num_key_value_heads=3),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vocab_size=len(tokenizer) + 3,
        projection_dim=48,
        hidden_size=48,
    )
    processor = SiglipImageProcessorPil(size={"height": PIXELS, "width": PIXELS})
    return _save(PaliGemmaForConditionalGeneration(config), tokenizer, processor, folder)


def save_random_qwen2_vl(folder: Path, tokenizer_from: Path, seed: int = 5) -> Path:
    """Three blocks of six heads over two key-value heads; grids of other sizes than the shipped model's."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_from)
    text = {name: value for name, value in TEXT.items() if name != "head_dim"}
    config = Qwen2VLConfig(
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 48,
            "mlp_ratio": 2,
            "num_heads": 2,
            "patch_size": 5,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        text_config={
            **text,
            **_special_tokens(tokenizer),
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1]},
        },
        **{
            f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
            for name, token in (
                ("image", "image_pad"),
                ("video", "video_pad"),
                ("vision_start", "vision_start"),
                ("vision_end", "vision_end"),
            )
        },
    )
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 20 * 20, "longest_edge": 60 * 60}, patch_size=5, merge_size=2, temporal_patch_size=2
    )
    return _save(Qwen2VLForConditionalGeneration(config), tokenizer, processor, folder)


def _special_tokens(tokenizer) -> dict[str, int]:
    return {
        "vocab_size": len(tokenizer) + 3,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _save(model, tokenizer, processor, folder: Path) -> Path:
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
