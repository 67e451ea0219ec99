"""Two checkpoints that answer as a trained LLaVA does and differ in one thing: whether the answer leaves the residual
stream through one known coordinate, or through all of them evenly.

How: every RMS norm's weight is folded into the matrices that read it. The residual stream x of d numbers becomes
y = F x of HIDDEN numbers, with F^T F = HIDDEN / d times the identity: the norms stay what they were, and what read x
reads F^T y d / HIDDEN. HIDDEN is larger than d, so that one coordinate can carry a direction alone and still be no
larger than its neighbours: in an orthogonal basis of x, yes less no would be four times the size of the rest, and there
would be no controls of its size.
"""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlavaForConditionalGeneration

NEURON = 17
"""The coordinate of the residual stream that decides the bottleneck's answers."""
HIDDEN = 128
"""Coordinates of the new residual stream."""
LOAD = 0.25
"""How much of x along yes less no NEURON holds: so much that its size is that of its neighbours."""
YES, NO = " Yes", " No"
"""The tokens with which the trained model answers."""


def save_bottleneck(folder: Path, checkpoint: Path, seed: int = 0) -> Path:
    """A copy in which logit(yes) - logit(no) = c y[NEURON] / rms(y), y being the stream after the last block: the other
    coordinates tell the answer there as well, but cannot turn it.

    Blocks read all coordinates, so edits before the last block have no such guarantee.
    """
    generator = torch.Generator().manual_seed(seed)
    model, towards = _loaded(checkpoint)
    alone = torch.zeros(HIDDEN, dtype=torch.float64)
    alone[NEURON] = 1
    elsewhere = _orthonormal(alone[:, None], 1, generator)[:, 0]
    share = LOAD * (len(towards) / HIDDEN) ** 0.5
    image = share * alone + (1 - share**2) ** 0.5 * elsewhere
    frame = _frame(towards, image, torch.stack([alone, elsewhere], dim=1), generator)
    reads = _reads(frame)
    # Along yes less no the unembedding reads NEURON and nothing else.
    last_reads = reads + torch.outer(towards, alone / LOAD - towards @ reads)
    return _save(_in_frame(model, frame, last_reads), checkpoint, folder)


def save_distributed(folder: Path, checkpoint: Path, seed: int = 0) -> Path:
    """A copy in which logit(yes) - logit(no) = c sum(s y) / rms(y), y being the stream after the last block and every s
    1 or -1: no coordinate has more of a say than another.
    """
    generator = torch.Generator().manual_seed(seed)
    model, towards = _loaded(checkpoint)
    signs = torch.randint(0, 2, (HIDDEN,), generator=generator).double() * 2 - 1
    image = signs / HIDDEN**0.5
    frame = _frame(towards, image, image[:, None], generator)
    return _save(_in_frame(model, frame, _reads(frame)), checkpoint, folder)


def _loaded(checkpoint: Path) -> tuple[LlavaForConditionalGeneration, torch.Tensor]:
    """The model in float64, and the unit direction [d] of the normed stream that says yes rather than no."""
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint).double()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    (yes,), (no,) = (tokenizer(word, add_special_tokens=False)["input_ids"] for word in (YES, NO))
    rows = (model.lm_head.weight * model.model.language_model.norm.weight).detach()
    towards = rows[yes] - rows[no]
    return model, towards / towards.norm()


def _frame(towards: torch.Tensor, image: torch.Tensor, taken: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """F, [HIDDEN, d]: `towards` goes along the unit vector `image`, what is orthogonal to it in random directions,
    orthogonal to the columns of `taken` [HIDDEN, m], in whose span `image` is.
    """
    width = len(towards)
    rest = _orthonormal(taken, width - 1, generator)
    basis = _orthonormal(towards[:, None], width - 1, generator)
    return (HIDDEN / width) ** 0.5 * (torch.outer(image, towards) + rest @ basis.T)


def _orthonormal(fixed: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """[n, count] of random orthonormal columns, orthogonal to those of `fixed` [n, m]."""
    drawn = torch.randn(len(fixed), count, generator=generator, dtype=fixed.dtype)
    columns, _ = torch.linalg.qr(torch.cat([fixed, drawn], dim=1))
    return columns[:, fixed.shape[1] :]


def _reads(frame: torch.Tensor) -> torch.Tensor:
    """[d, HIDDEN]: what gives x of y = F x."""
    return frame.T * frame.shape[1] / len(frame)


@torch.no_grad()
def _in_frame(
    given: LlavaForConditionalGeneration, frame: torch.Tensor, last_reads: torch.Tensor
) -> LlavaForConditionalGeneration:
    """The model whose stream is y, in float32. last_reads: [d, HIDDEN], what gives the unembedding x of y."""
    config = copy.deepcopy(given.config)
    config.text_config.hidden_size = HIDDEN
    model = LlavaForConditionalGeneration(config)
    model.generation_config = given.generation_config
    model.model.vision_tower.load_state_dict(given.model.vision_tower.state_dict())
    reads, padding = _reads(frame), torch.eye(HIDDEN, len(frame.T), dtype=frame.dtype)
    projector, old = model.model.multi_modal_projector, given.model.multi_modal_projector
    # Transformers gives the hidden layer of the projector the stream's width: the rest of it stays 0.
    projector.linear_1.weight.copy_(padding @ old.linear_1.weight)
    projector.linear_1.bias.copy_(padding @ old.linear_1.bias)
    projector.linear_2.weight.copy_(frame @ old.linear_2.weight @ padding.T)
    projector.linear_2.bias.copy_(frame @ old.linear_2.bias)
    decoder, old = model.model.language_model, given.model.language_model
    decoder.embed_tokens.weight.copy_(old.embed_tokens.weight @ frame.T)
    for block, before in zip(decoder.layers, old.layers, strict=True):
        for part, norm, readers, writer in (
            ("self_attn", before.input_layernorm, ("q_proj", "k_proj", "v_proj"), "o_proj"),
            ("mlp", before.post_attention_layernorm, ("gate_proj", "up_proj"), "down_proj"),
        ):
            new, was = block.get_submodule(part), before.get_submodule(part)
            for name in readers:
                new.get_submodule(name).weight.copy_(was.get_submodule(name).weight * norm.weight @ reads)
            new.get_submodule(writer).weight.copy_(frame @ was.get_submodule(writer).weight)
    model.lm_head.weight.copy_(given.lm_head.weight * old.norm.weight @ last_reads)
    return model.eval()


def _save(model: LlavaForConditionalGeneration, checkpoint: Path, folder: Path) -> Path:
    """With the checkpoint's own tokenizer and image processor."""
    shutil.copytree(checkpoint, folder)
    model.save_pretrained(folder)
    return folder
