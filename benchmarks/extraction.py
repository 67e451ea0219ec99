"""How fast a pass is and what keeping activations costs, against what users do today: one table a model.

python benchmarks/extraction.py                 # a mid-sized random LLaVA on the CPU, minutes
python benchmarks/extraction.py --quick         # small shapes, to see that everything runs
python benchmarks/extraction.py --device cuda   # random models of the published shapes in bfloat16
python benchmarks/extraction.py --check         # exit 1 and name the rows that miss their target
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import models
import transformers
from judged import show_missed
from measurement import EFFORTS, Measurement
from report import show_run, show_table
from subjects import Subject


def main() -> int:
    asked = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the temporary folder goes, too
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    effort = EFFORTS["quick" if asked.quick else asked.device]
    judged = asked.check or not asked.quick
    show_run(asked.device, effort.rounds)
    missed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="vlmlake-benchmark-") as folder:
        for name in asked.families or ["mid"]:
            subject = _subject(name, asked, Path(folder) / name, effort.images)
            measurement = Measurement(subject, effort, Path(folder))
            rows = measurement.rows()
            show_table(subject.title, rows, measurement.notes, judged)
            missed += [f"{subject.name} row {row.number}" for row in rows if row.passed is False]
            del subject, measurement
    if asked.check:
        show_missed(list(dict.fromkeys(missed)))
    return int(asked.check and bool(missed))


def _subject(name: str, asked: argparse.Namespace, folder: Path, images: int) -> Subject:
    if name == "mid":
        return Subject.prepare("llava", "small" if asked.quick else "mid", "cpu", "float32", folder, images, saved=True)
    shape = "small" if asked.quick else "published"
    dtype = "bfloat16" if asked.device == "cuda" else "float32"
    return Subject.prepare(name, shape, asked.device, dtype, folder, images, saved=False)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--families", type=lambda text: text.split(","), help=f"some of {','.join(models.BUILDERS)}")
    parser.add_argument("--quick", action="store_true", help="small shapes, few questions; no target is applied")
    parser.add_argument("--check", action="store_true", help="apply the targets, with --quick too")
    asked = parser.parse_args()
    if asked.device == "cuda" and not asked.families:
        asked.families = list(models.BUILDERS)
    unknown = set(asked.families or ()) - set(models.BUILDERS)
    if unknown:
        parser.error(f"unknown families {', '.join(sorted(unknown))}; there are {', '.join(models.BUILDERS)}")
    if asked.families and asked.device == "cpu" and not asked.quick:
        parser.error("the published shapes want --device cuda; --quick runs small ones of each family here")
    return asked


if __name__ == "__main__":
    sys.exit(main())
