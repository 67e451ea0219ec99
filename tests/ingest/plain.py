"""What a user would write without vlmlake: one question at a time, eager attention, no cache, no padding."""

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
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

CHECKPOINTS = Path(str(files("vlmlake.ingest") / "checkpoints"))
"""The folder of the models that the package carries."""


@dataclass(frozen=True)
class Forward:
    """states: [layers, tokens, hidden], before the final norm. logits: [tokens, vocab]. asked: tokens of the prompt."""

    states: np.ndarray
    logits: torch.Tensor
    asked: int


class PlainModel:
    """A checkpoint of any of the three families, loaded by transformers alone."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager").eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.processor = AutoImageProcessor.from_pretrained(folder)

    @property
    def ends(self) -> frozenset[int]:
        """Ids that end an answer."""
        ids = self.model.generation_config.eos_token_id
        return frozenset([ids] if isinstance(ids, int) else ids)

    @torch.no_grad()
    def __call__(self, image: Image.Image, question: str, answer: Sequence[int] = ()) -> Forward:
        inputs, asked = self._inputs(image, question, list(answer))
        last_block: list[torch.Tensor] = []
        block = self.model.model.language_model.layers[-1]
        hook = block.register_forward_hook(
            lambda module, arguments, output: last_block.append(output[0] if isinstance(output, tuple) else output)
        )
        out = self.model(**inputs, output_hidden_states=True, use_cache=False)
        hook.remove()
        states = torch.cat([*out.hidden_states[:-1], *last_block])
        return Forward(states.numpy(), out.logits[0], asked)

    def next_logits(self, image: Image.Image, question: str, answer: Sequence[int] = ()) -> torch.Tensor:
        """Logits of the token after the prompt and the answer so far, [vocab]."""
        return self(image, question, answer).logits[-1]

    def _inputs(self, image: Image.Image, question: str, answer: list[int]) -> tuple[dict[str, torch.Tensor], int]:
        processed = dict(self.processor(image, return_tensors="pt"))
        config = self.model.config
        if config.model_type == "llava":
            patches = "<image>" * (config.vision_config.image_size // config.vision_config.patch_size) ** 2
            ids = self.tokenizer(f"USER: {patches}\n{question} ASSISTANT:")["input_ids"]
            more = {}
        elif config.model_type == "paligemma":
            patches = "<image>" * (config.vision_config.image_size // config.vision_config.patch_size) ** 2
            ids = self.tokenizer(f"{patches}<bos>answer en {question}\n", add_special_tokens=False)["input_ids"]
            more = {"token_type_ids": torch.tensor([[0] * len(ids) + [1] * len(answer)])}
        else:
            patches = "<|image_pad|>" * (int(processed["image_grid_thw"].prod()) // self.processor.merge_size**2)
            text = (
                "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
                f"<|im_start|>user\n<|vision_start|>{patches}<|vision_end|>{question}<|im_end|>\n"
                "<|im_start|>assistant\n"
            )
            ids = self.tokenizer(text)["input_ids"]
            image_token = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")
            more = {"mm_token_type_ids": torch.tensor([[int(token == image_token) for token in ids + answer]])}
        whole = torch.tensor([ids + answer])
        return {"input_ids": whole, "attention_mask": torch.ones_like(whole), **processed, **more}, len(ids)


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
