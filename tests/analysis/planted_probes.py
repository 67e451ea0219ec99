"""Synthetic runs in which correctness is written into one layer, and one neuron, of a known place and strength."""

from __future__ import annotations

import numpy as np
import xarray as xr

from vlmlake.store_schema.schema import layer_names

NEURON = 3
"""The coordinate that carries the signal."""
WORDS = ("<s>", "▁yes", "Yes", " no", "No", "perhaps")


def planted_states(
    images: int = 60,
    questions: int = 6,
    blocks: int = 3,
    hidden: int = 12,
    signal_layer: str | None = None,
    strength: float = 2.0,
    fate_of_images: bool = False,
    splits: int = 1,
    seed: int = 0,
) -> xr.Dataset:
    """strength: by how many standard deviations right answers move NEURON of `signal_layer` at prompt_last, in the
    residual stream and in the MLP's write. fate_of_images: every image has one verdict for all of its questions, and a
    mark of its own in every coordinate: what a split that ignores images leaks. splits: each asks all questions again,
    on the same rows.
    """
    rng = np.random.default_rng(seed)
    layers, n = layer_names(blocks), images * questions
    image = np.repeat(np.arange(images), questions)
    correct = (rng.random(images) < 0.6)[image] if fate_of_images else rng.random(n) < 0.7
    states = rng.normal(size=(n, len(layers), 2, hidden))
    if fate_of_images:
        states += 3 * rng.normal(size=(images, 1, 1, hidden))[image]
    writes = rng.normal(size=(n, len(layers), hidden))
    writes[:, 0] = np.nan
    if signal_layer:
        states[:, layers.index(signal_layer), 0, NEURON] += strength * correct
        writes[:, layers.index(signal_layer), NEURON] += strength * correct
    gold = np.where(rng.random(n) < 0.5, "yes", "no")
    logits = rng.normal(size=(n, 2, len(WORDS)))
    unembedding = 0.1 * rng.normal(size=(len(WORDS), hidden))
    asked = np.tile(np.arange(n), splits)
    split = np.repeat([f"split_{number}" for number in range(splits)], n)
    outputs = rng.normal(size=(3, n))
    return xr.Dataset(
        {
            "readout_states": (("example", "layer", "position", "hidden"), states[asked].astype(np.float32)),
            "mlp_write": (("example", "layer", "hidden"), writes[asked].astype(np.float32)),
            "logits": (("example", "position", "vocab"), logits[asked].astype(np.float32)),
            "unembedding": (("vocab", "hidden"), unembedding.astype(np.float32)),
            "final_norm": (("hidden",), np.ones(hidden, np.float32)),
        },
        coords={
            "example": [f"planted/{name}/{number}" for name, number in zip(split, asked, strict=True)],
            "layer": list(layers),
            "position": ["prompt_last", "answer_0"],
            "token_text": ("vocab", list(WORDS)),
            "row": ("example", asked),
            "dataset": ("example", ["planted"] * len(asked)),
            "split": ("example", split),
            "image_sha256": ("example", [f"{number:064x}" for number in image[asked]]),
            "question": ("example", [f"question {number % questions}" for number in asked]),
            "gold": ("example", gold[asked].astype(object)),
            "answer": ("example", np.where(correct, gold, np.where(gold == "yes", "no", "yes"))[asked]),
            "answer_tokens": ("example", np.ones(len(asked), int)),
            "first_log_prob": ("example", outputs[0][asked]),
            "first_gap": ("example", outputs[1][asked]),
            "first_entropy": ("example", outputs[2][asked]),
        },
        attrs={"run": "planted-00000000", "final_norm_epsilon": 1e-6},
    ).chunk({"example": 90, "layer": 1})
