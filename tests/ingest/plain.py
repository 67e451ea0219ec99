"""What a user would write without vlmlake: stock processors, eager attention, one question at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    LlavaProcessor,
    LogitsProcessorList,
    PaliGemmaProcessor,
    Qwen2VLProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

CHECKPOINTS = Path(str(files("vlmlake.ingest") / "checkpoints"))
"""The folder of the models that the package carries."""

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


@dataclass(frozen=True)
class Forward:
    """Of a prompt and the answer given. ids: [tokens]; asked: how many are the prompt's; image: true at image tokens;
    grid: of them, rows and columns. states: [layers, tokens, hidden] before the final norm; attention: [blocks, heads,
    tokens, tokens]; logits: [tokens, vocab]; writes: [2, blocks, hidden] of attention and MLP at the prompt's last
    token.
    """

    ids: np.ndarray
    asked: int
    image: np.ndarray
    grid: tuple[int, int]
    states: np.ndarray
    attention: np.ndarray
    logits: torch.Tensor
    writes: np.ndarray


class PlainModel:
    """A checkpoint of any of the three families, loaded by transformers alone."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager").eval()
        self.family = self.model.config.model_type
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

    @property
    def ends(self) -> frozenset[int]:
        """Ids that end an answer."""
        ids = self.model.generation_config.eos_token_id
        return frozenset([ids] if isinstance(ids, int) else ids)

    @torch.no_grad()
    def generate(self, image: Image.Image, question: str, tokens: int) -> list[int]:
        """The greedy answer, its end token included where one came within so many tokens."""
        inputs = self._inputs(image, question)
        generated = self.model.generate(**inputs, do_sample=False, max_new_tokens=tokens)
        return generated[0, inputs["input_ids"].shape[1] :].tolist()

    def next_logits(self, image: Image.Image, question: str, answer: Sequence[int] = ()) -> torch.Tensor:
        """Logits of the token after the prompt and the answer so far, [vocab]."""
        return self(image, question, answer).logits[-1]

    @torch.no_grad()
    def __call__(self, image: Image.Image, question: str, answer: Sequence[int] = ()) -> Forward:
        inputs = self._inputs(image, question)
        asked = inputs["input_ids"].shape[1]
        language = self.model.model.language_model
        before_norm: list[torch.Tensor] = []
        writes: list[torch.Tensor] = []
        hooks = [language.norm.register_forward_pre_hook(lambda module, arguments: before_norm.append(arguments[0]))]
        for block in language.layers:
            for part in (block.self_attn, block.mlp):
                hook = part.register_forward_hook(
                    lambda module, arguments, output: writes.append(
                        (output[0] if isinstance(output, tuple) else output)[0, asked - 1]
                    )
                )
                hooks.append(hook)
        whole = self._continued(inputs, torch.tensor([list(answer)], dtype=torch.long))
        out = self.model(**whole, use_cache=False, output_hidden_states=True, output_attentions=True)
        for hook in hooks:
            hook.remove()
        (ids,) = whole["input_ids"]
        return Forward(
            ids=ids.numpy(),
            asked=asked,
            image=(ids == self.model.config.image_token_id).numpy(),
            grid=self._grid(inputs),
            states=torch.stack([*out.hidden_states[:-1], before_norm[0]])[:, 0].numpy(),
            attention=torch.stack(out.attentions)[:, 0].numpy(),
            logits=out.logits[0],
            writes=torch.stack(writes).view(len(language.layers), 2, -1).transpose(0, 1).numpy(),
        )

    def _inputs(self, image: Image.Image, question: str) -> dict[str, torch.Tensor]:
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

    def _continued(self, inputs: dict[str, torch.Tensor], answer: torch.Tensor) -> dict[str, torch.Tensor]:
        ids = torch.cat([inputs["input_ids"], answer], dim=1)
        whole = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        for name, value in (("token_type_ids", 1), ("mm_token_type_ids", 0)):
            if name in inputs:
                whole[name] = torch.cat([inputs[name], torch.full_like(answer, value).to(inputs[name].dtype)], dim=1)
        return whole

    def _grid(self, inputs: dict[str, torch.Tensor]) -> tuple[int, int]:
        tower = self.model.config.vision_config
        if self.family != "qwen2_vl":
            return (tower.image_size // tower.patch_size,) * 2
        _, rows, columns = inputs["image_grid_thw"][0].tolist()
        return rows // tower.spatial_merge_size, columns // tower.spatial_merge_size


def nucleus(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Probabilities that `generate` would sample from, [rows, vocab]; 0 outside the nucleus."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(float(temperature)), TopPLogitsWarper(float(top_p))])
    return warpers(torch.zeros((len(logits), 1), dtype=torch.long), logits).softmax(-1)


def token_at(probabilities: torch.Tensor, uniform: float) -> int:
    """The token in whose stretch of [0, 1) a number falls when the likeliest token comes first."""
    ordered = sorted(enumerate(probabilities.tolist()), key=lambda pair: -pair[1])
    reached = 0.0
    for token, probability in ordered:
        reached += probability
        if uniform < reached:
            return token
    return max(token for token, probability in ordered if probability)
