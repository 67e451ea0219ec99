"""What a model family owes: how a question becomes tokens, how an image becomes inputs, and where the parts are.

docs/adding-a-family.md says how to write one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import nn

from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.batches import Decoder
from vlmlake.store_schema.schema import CUE, IMAGE, QUESTION, SYSTEM


@dataclass(frozen=True)
class ImageInputs:
    """One image as the model takes it: keyword arguments of one row each, and the grid of its image tokens."""

    arguments: Mapping[str, torch.Tensor]
    grid: tuple[int, int]


@dataclass(frozen=True)
class Prompt:
    """One tokenized prompt.

    text: as a user would write it, with one image placeholder; ids and roles have it expanded. ids, roles: [tokens],
    int32 and int8 (a place in schema.ROLES). positions: [axes, tokens], int64, the rotary positions on the family's one
    or three axes. split: tokens before it are the prefix. grid: rows and columns of the image tokens.
    """

    text: str
    ids: np.ndarray
    roles: np.ndarray
    positions: np.ndarray
    split: int
    grid: tuple[int, int]

    @property
    def suffix_length(self) -> int:
        return len(self.ids) - self.split

    @property
    def next_position(self) -> int:
        """Rotary position of the first answer token, on every axis."""
        return int(self.positions.max()) + 1


class Family(ABC):
    """A loaded model with its tokenizer and image processor.

    model_type: transformers' name of the configuration. template: the prompt, with {image} and {question}; template_id
    is recorded in every run. adds_special_tokens: whether the tokenizer puts its own around the template.
    image_sees_question: whether what lies before the question depends on it, so that no two questions share a prefix.
    text_model_types: the decoders it holds for, by their configuration's model_type. grid_depends_on_size: whether an
    image becomes as many tokens as its size asks for.
    """

    model_type: ClassVar[str]
    template: ClassVar[str]
    template_id: ClassVar[str]
    text_model_types: ClassVar[tuple[str, ...]]
    adds_special_tokens: ClassVar[bool] = True
    image_sees_question: ClassVar[bool] = False
    grid_depends_on_size: ClassVar[bool] = False

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any) -> None:
        self.model, self.tokenizer, self.image_processor = model, tokenizer, image_processor
        if not tokenizer.is_fast:
            raise VlmlakeError(f"{model.name_or_path} has no fast tokenizer: token roles need character offsets")
        self.blocks: Sequence[nn.Module] = self._part("model.language_model.layers")
        self.attentions: Sequence[nn.Module] = self._parts_of_blocks("self_attn")
        self.mlps: Sequence[nn.Module] = self._parts_of_blocks("mlp")
        self.mlp_norms: Sequence[nn.Module] = self._parts_of_blocks("post_attention_layernorm")
        self.head_projections: Sequence[nn.Module] = self._parts_of_blocks("self_attn.o_proj")
        self.final_norm: Any = self._part("model.language_model.norm")
        self.unembedding: Any = self._part("lm_head")
        self._grids: dict[tuple[int, int], tuple[int, int]] = {}
        self.check()

    def check(self) -> None:  # noqa: B027 - most families have nothing to add
        """Look at what else the family relies on. Raises VlmlakeError naming what is not as expected."""

    @abstractmethod
    def image_inputs(self, image: Image.Image) -> ImageInputs:
        """The processor's output for one RGB image and the grid that the model will make of it, rows then columns."""

    def blank_inputs(self, size: tuple[int, int]) -> ImageInputs:
        """A gray image (128) of so many pixels, width and height: the control that shows what an image adds."""
        return self.image_inputs(Image.new("RGB", size, (128, 128, 128)))

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """The grid of image tokens of an image of so many pixels, from what the processor makes of such an image."""
        if size not in self._grids:
            self._grids[size] = self.blank_inputs(size).grid
        return self._grids[size]

    def seen_region(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The part of an image of so many pixels, width and height, that the grid of its image tokens spans: left, top,
        right and bottom, in pixels of the image. An image token sees one cell of it, and what resampling mixes in.

        Raises VlmlakeError where the family does not say it, or what the image processor does is not known.
        """
        raise VlmlakeError(
            f"{self.model_type} does not say which part of an image its image tokens see: no patch masks"
        )

    def require_image_processor(self, known: Sequence[str]) -> None:
        """Raises VlmlakeError for an image processor of another class than these, whatever library resizes for it."""
        name = type(self.image_processor).__name__.removesuffix("Pil").removesuffix("Fast")
        if name not in known:
            raise VlmlakeError(
                f"what the image processor {name} of {self.model.name_or_path} cuts off is not known: expected "
                f"{' or '.join(known)}"
            )

    def positions(self, ids: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
        """Rotary positions of a whole prompt, [axes, tokens], int64."""
        return np.arange(len(ids), dtype=np.int64)[None]

    def sequence_arguments(self, ids: torch.Tensor, answer: int = 0) -> dict[str, torch.Tensor]:
        """What else the model wants with a forward over whole sequences. ids: [batch, columns], padding included; their
        last `answer` columns are an answer, the others a prompt.
        """
        return {}

    @property
    def image_token(self) -> str:
        """The placeholder that stands for one image token in a prompt."""
        return str(self.tokenizer.convert_ids_to_tokens(self.model.config.image_token_id))

    @property
    def closing_tokens(self) -> frozenset[int]:
        """Ids that belong to the prefix where they follow the last image token."""
        return frozenset()

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    @property
    def decoder(self) -> Decoder:
        config = self.model.config.text_config
        return Decoder(
            blocks=len(self.blocks),
            heads=config.num_attention_heads,
            hidden=config.hidden_size,
            vocab=self.unembedding.weight.shape[0],
        )

    @property
    def heads_width(self) -> int:
        """Width of all heads' outputs beside one another, before they are projected onto the residual stream."""
        width: int = self.head_projections[0].in_features  # type: ignore[assignment]
        return width

    @property
    def longest_sequence(self) -> int:
        """How many tokens the decoder's positions reach."""
        return int(self.model.config.text_config.max_position_embeddings)

    @property
    def end_tokens(self) -> frozenset[int]:
        """Ids that end an answer."""
        for config in (self.model.generation_config, self.model.config.text_config, self.tokenizer):
            ids = getattr(config, "eos_token_id", None)
            if ids is not None:
                return frozenset([ids] if isinstance(ids, int) else ids)
        raise VlmlakeError(f"{self.model.name_or_path} names no end-of-sequence token")

    @property
    def final_norm_record(self) -> dict[str, Any]:
        """Kind and epsilon of the norm before the unembedding."""
        return {"kind": "rms", "epsilon": float(self.final_norm.variance_epsilon)}

    @property
    def final_norm_scale(self) -> torch.Tensor:
        """What the normed residual stream is multiplied with before the unembedding, [hidden], float32."""
        scale: torch.Tensor = self.final_norm.weight.detach().float()
        return scale

    @property
    def vocabulary(self) -> list[str]:
        """The text of every row of the unembedding; empty where the tokenizer has no such token."""
        known = min(len(self.tokenizer), self.decoder.vocab)
        texts: list[str] = self.tokenizer.batch_decode([[number] for number in range(known)])
        return texts + [""] * (self.decoder.vocab - known)

    def prompt(self, question: str, grid: tuple[int, int]) -> Prompt:
        """Tokenize the whole prompt of a question about an image of `grid` tokens, then split it after the last of
        them.

        Raises VlmlakeError if the question holds the image placeholder, or if the tokenizer changes its number.
        """
        if self.image_token in question:
            raise VlmlakeError(f"the question {question!r} holds the image placeholder {self.image_token}")
        patches = grid[0] * grid[1]
        opening, _, closing = self.template.partition("{question}")
        before = opening.replace("{image}", self.image_token * patches)
        encoded = self.tokenizer(
            before + question + closing, return_offsets_mapping=True, add_special_tokens=self.adds_special_tokens
        )
        ids = np.asarray(encoded["input_ids"], np.int32)
        image = np.flatnonzero(ids == self.tokenizer.convert_tokens_to_ids(self.image_token))
        if len(image) != patches:
            raise VlmlakeError(f"the prompt holds {len(image)} image tokens, the image has {patches}: wrong tokenizer?")
        roles = np.full(len(ids), SYSTEM, np.int8)
        for token, (start, end) in enumerate(encoded["offset_mapping"]):
            if end > len(before) and start < len(before) + len(question):
                roles[token] = QUESTION
            elif start >= len(before) + len(question) and end > start:
                roles[token] = CUE
        roles[image] = IMAGE
        text = opening.replace("{image}", self.image_token) + question + closing
        split = int(image[-1]) + 1
        while int(ids[split]) in self.closing_tokens:
            split += 1
        return Prompt(text, ids, roles, self.positions(ids, grid), split, grid)

    def stack_images(self, images: Sequence[ImageInputs]) -> dict[str, torch.Tensor]:
        """Model arguments for several images, on the model's device, floats in its dtype."""
        stacked = {name: torch.cat([image.arguments[name] for image in images]) for name in images[0].arguments}
        return {
            name: values.to(self.device, self.model.dtype if values.is_floating_point() else values.dtype)
            for name, values in stacked.items()
        }

    def _parts_of_blocks(self, name: str) -> list[nn.Module]:
        return [self._part(f"model.language_model.layers.{number}.{name}") for number in range(len(self.blocks))]

    def _part(self, path: str) -> Any:
        try:
            return self.model.get_submodule(path)
        except AttributeError as error:
            raise VlmlakeError(f"{self.model.name_or_path} ({self.model_type}) has no part {path}: {error}") from error
