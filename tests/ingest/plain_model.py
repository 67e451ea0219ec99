"""What a user would write today: eager attention, everything asked for, one question at a time, stock processors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    LlavaProcessor,
    PaliGemmaProcessor,
    Qwen2VLProcessor,
)

CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    "<|vision_start|><|image_pad|><|vision_end|>{}<|im_end|>\n<|im_start|>assistant\n"
)


class WithoutVideo(Qwen2VLProcessor):
    """The stock processor but for its video processor, which needs torchvision."""

    def __init__(self, image_processor, tokenizer) -> None:
        self.image_processor, self.tokenizer, self.video_processor = image_processor, tokenizer, None
        self.image_token, self.video_token, self.chat_template = "<|image_pad|>", "<|video_pad|>", None
        self.image_token_id, self.video_token_id = (
            tokenizer.convert_tokens_to_ids(token) for token in (self.image_token, self.video_token)
        )
        self.image_ids, self.video_ids, self.audio_ids = [self.image_token_id], [self.video_token_id], []


class PlainModel:
    """One model, called with an image and a question."""

    def __init__(self, folder: Path, answer_tokens: int) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager").eval()
        self.family = self.model.config.model_type
        self.answer_tokens = answer_tokens
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.image_processor = AutoImageProcessor.from_pretrained(folder)
        tower = self.model.config.vision_config
        if self.family == "llava":
            self.processor = LlavaProcessor(
                self.image_processor,
                self.tokenizer,
                patch_size=tower.patch_size,
                vision_feature_select_strategy="default",
                num_additional_image_tokens=1,
            )
        elif self.family == "paligemma":
            self.image_processor.image_seq_length = (tower.image_size // tower.patch_size) ** 2
            self.processor = PaliGemmaProcessor(self.image_processor, self.tokenizer)
        else:
            self.processor = WithoutVideo(self.image_processor, self.tokenizer)

    def inputs(self, image: Image.Image, question: str) -> dict[str, torch.Tensor]:
        """Of one prompt, as the stock processor makes them."""
        text = {
            "llava": f"USER: <image>\n{question} ASSISTANT:",
            "paligemma": f"answer en {question}",
            "qwen2_vl": CHAT.format(question),
        }[self.family]
        inputs = dict(self.processor(images=[image], text=[text], return_tensors="pt"))
        inputs.pop("labels", None)
        if self.family == "llava":
            inputs.pop("token_type_ids", None)
        return inputs

    def grid(self, inputs: dict[str, torch.Tensor]) -> tuple[int, int]:
        tower = self.model.config.vision_config
        if self.family != "qwen2_vl":
            return (tower.image_size // tower.patch_size,) * 2
        _, rows, columns = inputs["image_grid_thw"][0].tolist()
        return rows // tower.spatial_merge_size, columns // tower.spatial_merge_size

    @torch.no_grad()
    def __call__(self, image: Image.Image, question: str) -> dict[str, np.ndarray]:
        """Everything of the prompt and its greedy answer: answer, ids, asked (prompt tokens), grid, states [layers,
        tokens, hidden] before the final norm, attention [blocks, heads, tokens, tokens], logits [tokens, vocab], writes
        [2, blocks, hidden] of attention and MLP at the last prompt token.
        """
        inputs = self.inputs(image, question)
        generated = self.model.generate(**inputs, do_sample=False, max_new_tokens=self.answer_tokens)
        asked = inputs["input_ids"].shape[1]
        answer = generated[0, asked:]
        kept = answer[answer != self.tokenizer.eos_token_id]
        ids = torch.cat([inputs["input_ids"][0], kept])
        before_norm: list[torch.Tensor] = []
        writes: list[torch.Tensor] = []
        language = self.model.model.language_model
        hooks = [language.norm.register_forward_pre_hook(lambda module, arguments: before_norm.append(arguments[0]))]
        for part in ("self_attn", "mlp"):
            for block in language.layers:
                hook = getattr(block, part).register_forward_hook(
                    lambda module, arguments, output: writes.append(
                        (output[0] if isinstance(output, tuple) else output)[0, asked - 1]
                    )
                )
                hooks.append(hook)
        whole = {**inputs, "input_ids": ids[None], "attention_mask": torch.ones_like(ids[None])}
        for name, value in (("token_type_ids", 1), ("mm_token_type_ids", 0)):
            if name in inputs:
                more = torch.full((1, len(kept)), value, dtype=inputs[name].dtype)
                whole[name] = torch.cat([inputs[name], more], dim=1)
        out = self.model(**whole, output_hidden_states=True, output_attentions=True)
        for hook in hooks:
            hook.remove()
        blocks = len(language.layers)
        by_call = torch.stack(writes).view(blocks, 2, -1)
        return {
            "answer": answer.numpy(),
            "ids": ids.numpy(),
            "asked": np.array(asked),
            "grid": np.array(self.grid(inputs)),
            "image": (ids == self.model.config.image_token_id).numpy(),
            "states": torch.stack([*out.hidden_states[:-1], before_norm[0]])[:, 0].numpy(),
            "attention": torch.stack(out.attentions)[:, 0].numpy(),
            "logits": out.logits[0].numpy(),
            "writes": by_call.transpose(0, 1).numpy(),
        }
