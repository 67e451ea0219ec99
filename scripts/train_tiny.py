"""Train the tiny checkpoints that the package carries: real transformers classes, drawn scenes, a few minutes of CPU.

    python scripts/train_tiny.py --family llava --output vlmlake/ingest/checkpoints/tiny-llava

Reached with the defaults (transformers 5.23, torch 2.13, two CPU cores): 335,168 parameters; on 4,000 fresh questions,
half of them yes, 0.864 right on adversarial and 0.907 on random ones; 1,300 steps in 8.4 minutes, 16.7 beside a busy
test suite. Two runs wrote the same bytes.

Half of every batch are captions (objects in reading order), half are packed yes/no questions whose negatives are lures
(see shapes.Scene) in LURE_SHARE of the cases. Training stops once the held-out accuracy on adversarial questions
reaches --stop-at: a study of reliability needs a model that makes honest errors.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from vlmlake.ingest.datasets.shapes import KINDS, Kind, Scene, caption, draw, question, sample_scene

CAPTION_QUESTION = "What is in the image?"
QUESTIONS_A_SEQUENCE = 8
LURE_SHARE = 0.35
IGNORED = -100
PIXELS, PATCH, WIDTH = 48, 8, 64


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE in Llama's manner (<s> first, </s> last, <image> a special token), learned on scene language."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=448,
        special_tokens=["<s>", "</s>", "<pad>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = [f"USER: \n{question(kind)} ASSISTANT: {answer}" for kind in KINDS for answer in ("Yes", "No")]
    corpus += [f"USER: \n{CAPTION_QUESTION} ASSISTANT: {a} {b}, {a} {b}" for a, b in KINDS]
    tokenizer.train_from_iterator(corpus, trainer)
    start = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", start)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
        padding_side="left",
    )


def build_llava(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=PIXELS,
            patch_size=PATCH,
            projection_dim=WIDTH,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=176,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            initializer_range=0.06,
            max_position_embeddings=512,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(PIXELS // PATCH) ** 2,
    )
    return LlavaForConditionalGeneration(config)


class Lessons:
    """Training sequences; every turn after the first follows `</s>`, as in LLaVA-1.5's conversations."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, image_tokens: int, rng: random.Random) -> None:
        self.tokenizer, self.rng = tokenizer, rng
        self.first = "USER: " + "<image>" * image_tokens + "\n"

    def captions(self, scenes: list[Scene]) -> dict[str, torch.Tensor]:
        return self._batch([[(CAPTION_QUESTION, caption(scene))] for scene in scenes])

    def questions(self, scenes: list[Scene]) -> dict[str, torch.Tensor]:
        return self._batch([self._turns(scene) for scene in scenes])

    def _batch(self, conversations: list[list[tuple[str, str]]]) -> dict[str, torch.Tensor]:
        sequences = [self._sequence(turns) for turns in conversations]
        longest = max(len(ids) for ids, _ in sequences)
        pad = self.tokenizer.pad_token_id
        return {
            "input_ids": torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in sequences]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in sequences]),
            "labels": torch.tensor([labels + [IGNORED] * (longest - len(labels)) for _, labels in sequences]),
        }

    def prompts(self, questions: list[str]) -> dict[str, torch.Tensor]:
        texts = [f"{self.first}{text} ASSISTANT:" for text in questions]
        return dict(self.tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False))

    def _turns(self, scene: Scene) -> list[tuple[str, str]]:
        turns = []
        for _ in range(QUESTIONS_A_SEQUENCE):
            present = self.rng.random() < 0.5
            turns.append((question(pick_kind(scene, present, self.rng)), "Yes" if present else "No"))
        return turns

    def _sequence(self, turns: list[tuple[str, str]]) -> tuple[list[int], list[int]]:
        ids: list[int] = [self.tokenizer.bos_token_id]
        labels: list[int] = [IGNORED]
        for number, (asked, answer) in enumerate(turns):
            prompt = (self.first if number == 0 else "USER: ") + f"{asked} ASSISTANT:"
            asked_ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
            answer_ids = self.tokenizer(f" {answer}</s>", add_special_tokens=False)["input_ids"]
            ids += asked_ids + answer_ids
            labels += [IGNORED] * len(asked_ids) + answer_ids
        return ids, labels


def pick_kind(scene: Scene, present: bool, rng: random.Random) -> Kind:
    if present:
        return rng.choice(scene.kinds)
    return rng.choice(scene.lures if rng.random() < LURE_SHARE else scene.absent)


@torch.no_grad()
def accuracy(model, processor, lessons: Lessons, negatives: str, count: int, seed: int) -> float:
    """Share of right first tokens over fresh scenes, half yes, half no; `negatives` is `random` or `adversarial`."""
    rng = random.Random(seed)
    right = 0
    for _ in range(count // 200):
        scenes = [sample_scene(rng) for _ in range(200)]
        present = [number % 2 == 0 for number in range(200)]
        kinds = [
            rng.choice(scene.kinds if here else scene.lures if negatives == "adversarial" else scene.absent)
            for scene, here in zip(scenes, present, strict=True)
        ]
        inputs = lessons.prompts([question(kind) for kind in kinds])
        logits = model(**inputs, pixel_values=pixels(processor, scenes), logits_to_keep=1).logits[:, -1]
        yes, no = (lessons.tokenizer.encode(f" {word}", add_special_tokens=False)[0] for word in ("Yes", "No"))
        chosen = logits.argmax(-1).tolist()
        right += sum(token == (yes if here else no) for token, here in zip(chosen, present, strict=True))
    return right / (count // 200 * 200)


def pixels(processor, scenes: list[Scene]) -> torch.Tensor:
    return processor([draw(scene) for scene in scenes], return_tensors="pt")["pixel_values"]


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    started = time.monotonic()
    tokenizer = build_tokenizer()
    processor = CLIPImageProcessorPil(size={"shortest_edge": PIXELS}, crop_size={"height": PIXELS, "width": PIXELS})
    model = build_llava(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, vocabulary {len(tokenizer)}", flush=True)
    lessons = Lessons(tokenizer, model.config.image_seq_length, random.Random(options.seed))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, 1.0, total_iters=100)

    for step in range(1, options.steps + 1):
        scenes = [sample_scene(lessons.rng) for _ in range(64)]
        images = pixels(processor, scenes)
        seeing = model(**lessons.captions(scenes[:32]), pixel_values=images[:32]).loss
        asking = model(**lessons.questions(scenes[32:]), pixel_values=images[32:]).loss
        loss = seeing + asking
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        warm_up.step()
        if step % 25 == 0:
            model.eval()
            reached = accuracy(model, processor, lessons, "adversarial", 1000, seed=1_000_003)
            easier = accuracy(model, processor, lessons, "random", 1000, seed=1_000_003)
            model.train()
            minutes = (time.monotonic() - started) / 60
            print(
                f"step {step}: losses {seeing.item():.3f} {asking.item():.3f}, "
                f"adversarial {reached:.3f}, random {easier:.3f}, {minutes:.1f} min",
                flush=True,
            )
            if reached >= options.stop_at and easier > reached:
                break

    model.eval()
    model.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    processor.save_pretrained(options.output)
    for negatives in ("random", "adversarial"):
        print(f"final {negatives}: {accuracy(model, processor, lessons, negatives, 4000, seed=2_000_003):.3f}")
    print(f"{step} steps, {(time.monotonic() - started) / 60:.1f} minutes, torch {torch.__version__}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=("llava",), default="llava")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=12_000, help="stop here at the latest")
    parser.add_argument("--stop-at", type=float, default=0.86, help="held-out adversarial accuracy to stop at")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())
