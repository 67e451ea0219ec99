"""How much less an intervention costs than running the whole model again for each of its conditions.

python benchmarks/interventions.py                 # a random LLaVA of 32 narrow blocks on the CPU, minutes
python benchmarks/interventions.py --quick         # small shapes, to see that everything runs
python benchmarks/interventions.py --device cuda   # a random LLaVA of the published shape in bfloat16
python benchmarks/interventions.py --check         # exit 1 and name the rows that miss their target
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import judged
import torch
import transformers
from reruns.asking import Asker
from reruns.cases import CONTROLS, SIZES, algebra, cases
from reruns.table import HEADINGS
from subjects import Subject, examples_of

from vlmlake.analysis.analyze import analyze
from vlmlake.analysis.neurons.neurons import NeuronParameters
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.extract import extract
from vlmlake.store_schema.capture_plan import read_plan

PACKAGES = ("vlmlake", "torch", "transformers", "numpy", "zarr")
DECODING = Decoding(answer_tokens=4)
RANKED = NeuronParameters(sites=("resid", "mlp_out", "attn_out"), layers="block_31")


@dataclass(frozen=True)
class Effort:
    """shape: of models.SHAPES. images: about half of them are asked about. batch: questions that run together."""

    shape: str
    images: int
    batch: int
    rounds: int


EFFORTS = {
    "cpu": Effort("deep", images=6, batch=18, rounds=2),
    "cuda": Effort("published", images=16, batch=24, rounds=2),
    "quick": Effort("small-deep", images=6, batch=18, rounds=1),
}


def measure(effort: str, folder: Path, device: str) -> judged.Measured:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    chosen = EFFORTS["quick" if effort == "quick" else device]
    dtype = "bfloat16" if device == "cuda" else "float32"
    subject = Subject.prepare("llava", chosen.shape, device, dtype, folder / "subject", chosen.images, saved=False)
    job = subject.job(chosen.images, "lake", chosen.batch, DECODING, read_plan("readout", "float32"))
    extract(job, family=subject.family)
    analyze(job.lake, ("neurons",), parameters={"neurons": RANKED})
    asker = Asker(Path(job.lake), subject.images, subject.family)
    asker, exact = Asker(Path(job.lake), subject.images, subject.family), dtype == "float32"
    parts = [case.rows(asker, chosen.rounds, exact) for case in cases()]
    parts.append(algebra(asker, chosen.rounds, exact))
    return [row for rows, _ in parts for row in rows], [*_notes(subject, chosen), *(note for _, note in parts)]


def _notes(subject: Subject, effort: Effort) -> list[str]:
    chip = f" of {torch.cuda.get_device_name()}" if subject.device == "cuda" else ""
    threads, rounds = torch.get_num_threads(), f"best of {effort.rounds}" if effort.rounds > 1 else "one round"
    examples, sizes = examples_of(effort.images), ", ".join(map(str, SIZES))
    return [
        f"{subject.title}.",
        f"{subject.device}{chip}, {subject.dtype}, {threads} torch threads; {rounds}.",
        f"{examples} questions about {effort.images} images. About half of the images ranked the "
        "neurons (d_act, pope_official, golds yes and no",
        f"in turn) and gave the means; the others are asked, {DECODING.answer_tokens} tokens each. Sets: the {sizes} "
        f"top neurons, for each up to {CONTROLS} different",
        "control sets, and the model as it is.",
        "a: 5 of these by the route full, prefixes shared, times their number, without the means. These are in ours. "
        "Loading the model is in no time,",
        "reading images and writing outcomes in all. e and f: of the 5, all examples.",
    ]


if __name__ == "__main__":
    arguments = judged.parser(__doc__)
    arguments.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    asked = arguments.parse_args()
    sys.exit(judged.run(asked, PACKAGES, HEADINGS, partial(measure, device=asked.device)))
