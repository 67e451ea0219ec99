"""The three families of tiny models that train_tiny.py trains: what each real class needs that the others do not.

A family builds a tokenizer, an image processor and an untrained model, writes the turns of a conversation in its own
format, and adds the inputs that only its class takes. All three read 48 x 48 pixels as 6 x 6 image tokens; Qwen2-VL
also reads other shapes as other grids.
"""

from __future__ import annotations

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BaseImageProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GemmaConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig, Qwen2VLVisionConfig

from vlmlake.ingest.datasets.shapes import KINDS, question

CAPTION_QUESTION = "What is in the image?"
PIXELS, PATCH, WIDTH = 48, 8, 64
SEQUENCES = 64
LURE_SHARE = 0.35
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 176,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    # transformers' own 0.02 learns too slowly at this width
    "initializer_range": 0.06,
    "max_position_embeddings": 512,
}
TOWER = {
    "hidden_size": WIDTH,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": PIXELS,
    "patch_size": PATCH,
}

Tensors = dict[str, torch.Tensor]


class Family:
    """One family: `tokenizer`, `processor`, `any_size` (whether images may have any shape), how many questions an
    `exam` on the way has and after how many steps it is held (`check_every`), and the methods below.
    """

    any_size = False
    exam = 1000
    check_every = 25
    tokenizer: PreTrainedTokenizerFast
    processor: BaseImageProcessor

    def model(self) -> PreTrainedModel:
        """The real class, untrained."""
        raise NotImplementedError

    def first(self, asked: str, image_tokens: int) -> str:
        """The prompt at which a conversation opens: the one that inference uses, too."""
        raise NotImplementedError

    def further(self, asked: str) -> str:
        """The prompt of every later question about the same image."""
        raise NotImplementedError

    def answer(self, text: str) -> str:
        """What follows a prompt, up to the end of the turn."""
        raise NotImplementedError

    def see(self, images: list[Image.Image]) -> Tensors:
        return dict(self.processor(images, return_tensors="pt"))

    def image_tokens(self, seen: Tensors) -> list[int]:
        """How many image tokens each of the images gets."""
        return [(PIXELS // PATCH) ** 2] * len(seen["pixel_values"])

    def captions(self, step: int) -> int:
        """How many of the SEQUENCES of a step are captions, the others questions."""
        return SEQUENCES // 2

    def lure_share(self, step: int) -> float:
        """How many of a step's negatives are lures (shapes.Scene)."""
        return LURE_SHARE

    def more_inputs(self, inputs: Tensors, in_first: torch.Tensor) -> Tensors:
        """The inputs of this class alone; `in_first` is true up to the end of every first prompt, left padding too."""
        return {}

    def _id(self, token: str) -> int:
        return self.tokenizer.convert_tokens_to_ids(token)


class Llava(Family):
    """LLaVA-1.5: every turn after the first follows `</s>`."""

    def __init__(self) -> None:
        tokenizer = _learn_bpe(["<s>", "</s>", "<pad>", "<image>"], _corpus("USER: \n{} ASSISTANT: {}", "Yes", "No"))
        start = tokenizer.token_to_id("<s>")
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", start)])
        self.tokenizer = _wrap(tokenizer, ["<image>"], bos_token="<s>", eos_token="</s>", pad_token="<pad>")
        self.processor = CLIPImageProcessorPil(
            size={"shortest_edge": PIXELS}, crop_size={"height": PIXELS, "width": PIXELS}
        )

    def model(self) -> PreTrainedModel:
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(**TOWER, projection_dim=WIDTH),
            text_config=LlamaConfig(
                **TEXT,
                vocab_size=len(self.tokenizer),
                num_key_value_heads=4,
                bos_token_id=self._id("<s>"),
                eos_token_id=self._id("</s>"),
                pad_token_id=self._id("<pad>"),
            ),
            image_token_id=self._id("<image>"),
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
            image_seq_length=(PIXELS // PATCH) ** 2,
        )
        return LlavaForConditionalGeneration(config)

    def first(self, asked: str, image_tokens: int) -> str:
        return "<s>USER: " + "<image>" * image_tokens + f"\n{asked} ASSISTANT:"

    def further(self, asked: str) -> str:
        return f"USER: {asked} ASSISTANT:"

    def answer(self, text: str) -> str:
        return f" {text}</s>"


class PaliGemma(Family):
    """PaliGemma: the first prompt is a prefix that attends both ways; answers and later questions are causal."""

    def __init__(self) -> None:
        corpus = _corpus("answer en {}\n{}", "yes", "no")
        tokenizer = _learn_bpe(["<pad>", "<eos>", "<bos>", "<unk>", "<image>"], corpus, newline_alone=True)
        self.tokenizer = _wrap(
            tokenizer, ["<image>"], bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
        )
        self.processor = SiglipImageProcessorPil(size={"height": PIXELS, "width": PIXELS})

    def model(self) -> PreTrainedModel:
        config = PaliGemmaConfig(
            vision_config=SiglipVisionConfig(**TOWER, vision_use_head=False),
            text_config=GemmaConfig(
                **TEXT,
                vocab_size=len(self.tokenizer),
                num_key_value_heads=1,
                head_dim=WIDTH // 4,
                bos_token_id=self._id("<bos>"),
                eos_token_id=self._id("<eos>"),
                pad_token_id=self._id("<pad>"),
            ),
            image_token_index=self._id("<image>"),
            vocab_size=len(self.tokenizer),
            projection_dim=WIDTH,
            hidden_size=WIDTH,
        )
        return PaliGemmaForConditionalGeneration(config)

    def first(self, asked: str, image_tokens: int) -> str:
        return "<image>" * image_tokens + f"<bos>answer en {asked}\n"

    def further(self, asked: str) -> str:
        return f"answer en {asked}\n"

    def answer(self, text: str) -> str:
        return f"{text.lower()}<eos>"

    def more_inputs(self, inputs: Tensors, in_first: torch.Tensor) -> Tensors:
        # positions start at 1 with the first token that is no padding, on whichever side the padding is
        positions = inputs["attention_mask"].cumsum(-1).clamp(min=1)
        return {"token_type_ids": (~in_first).long(), "position_ids": positions}


class Qwen2VL(Family):
    """Qwen2-VL: ChatML turns; an image keeps its shape, so images of one batch differ in their grids.

    Its question stands further from the answer than the others'; without easy negatives first and more questions later
    it had not left chance after 1,000 steps.
    """

    any_size = True
    exam = 600
    check_every = 50
    merge = 2
    specials = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")

    def __init__(self) -> None:
        corpus = [
            "system\nYou are a helpful assistant.",
            *_corpus("user\n{}", "Yes", "No"),
            *_corpus("assistant\n{1}", "Yes", "No"),
        ]
        tokenizer = _learn_bpe(["<|endoftext|>", *self.specials], corpus, newline_alone=True)
        self.tokenizer = _wrap(tokenizer, list(self.specials), eos_token="<|im_end|>", pad_token="<|endoftext|>")
        self.processor = Qwen2VLImageProcessorPil(
            size={"shortest_edge": 32 * PIXELS, "longest_edge": PIXELS * PIXELS},
            patch_size=PATCH // self.merge,
            merge_size=self.merge,
            temporal_patch_size=2,
        )

    def model(self) -> PreTrainedModel:
        config = Qwen2VLConfig(
            vision_config=Qwen2VLVisionConfig(
                depth=2,
                embed_dim=WIDTH,
                hidden_size=WIDTH,
                mlp_ratio=2,
                num_heads=4,
                patch_size=PATCH // self.merge,
                spatial_merge_size=self.merge,
                temporal_patch_size=2,
            ).to_dict(),
            text_config=Qwen2VLTextConfig(
                **TEXT,
                vocab_size=len(self.tokenizer),
                num_key_value_heads=2,
                # a base of 100 reads captions sooner but stayed at chance on questions for 675 steps
                rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]},
                bos_token_id=None,
                eos_token_id=self._id("<|im_end|>"),
                pad_token_id=self._id("<|endoftext|>"),
            ).to_dict(),
            image_token_id=self._id("<|image_pad|>"),
            video_token_id=self._id("<|video_pad|>"),
            vision_start_token_id=self._id("<|vision_start|>"),
            vision_end_token_id=self._id("<|vision_end|>"),
        )
        return Qwen2VLForConditionalGeneration(config)

    def captions(self, step: int) -> int:
        return SEQUENCES // 2 if step <= 300 else SEQUENCES // 4

    def lure_share(self, step: int) -> float:
        return 0.0 if step <= 450 else LURE_SHARE

    def first(self, asked: str, image_tokens: int) -> str:
        system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        image = "<|vision_start|>" + "<|image_pad|>" * image_tokens + "<|vision_end|>"
        return f"{system}<|im_start|>user\n{image}{asked}<|im_end|>\n<|im_start|>assistant\n"

    def further(self, asked: str) -> str:
        return f"\n<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"

    def answer(self, text: str) -> str:
        return f"{text}<|im_end|>"

    def image_tokens(self, seen: Tensors) -> list[int]:
        return (seen["image_grid_thw"].prod(-1) // self.merge**2).tolist()

    def more_inputs(self, inputs: Tensors, in_first: torch.Tensor) -> Tensors:
        return {"mm_token_type_ids": (inputs["input_ids"] == self._id("<|image_pad|>")).long()}


FAMILIES = {"llava": Llava, "paligemma": PaliGemma, "qwen2_vl": Qwen2VL}


def _corpus(turn: str, yes: str, no: str) -> list[str]:
    """Every question and every word of the captions, in `turn`: its first {} is the question, its second the answer."""
    corpus = [turn.format(question(kind), answer) for kind in KINDS for answer in (yes, no)]
    return corpus + [turn.format(CAPTION_QUESTION, f"{a} {b}, {a} {b}") for a, b in KINDS]


def _learn_bpe(specials: list[str], corpus: list[str], newline_alone: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    split = pre_tokenizers.Split("\n", behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level]) if newline_alone else byte_level
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=448,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def _wrap(tokenizer: Tokenizer, specials: list[str], **named: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=specials, padding_side="left", **named
    )
