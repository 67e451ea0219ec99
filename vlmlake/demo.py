"""The main job in one go: draw scenes, run the tiny models once, answer the study's questions from the store."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import polars as pl
from rich.console import Console

from vlmlake.analysis.study import study
from vlmlake.console.analysis import analyze_with_progress, print_study
from vlmlake.console.causal import print_causal
from vlmlake.console.extraction import extract_with_progress
from vlmlake.store_schema.capture_plan import DEFAULT_PLAN, read_plan
from vlmlake.store_schema.lake import open_lake

ANSWER_TOKENS = 4
SAMPLES = 10

DISTURBED = "adversarial"
"""The split that is asked again with neurons taken away and patches covered: on it the three models err most."""

TINY_MODELS = ("tiny-llava", "tiny-paligemma", "tiny-qwen2-vl")


def run_demo(console: Console, folder: Path, images: int, seed: int = 1) -> None:
    """Make a small lake below `folder` and print what it tells. Running it again finds the lake and what was found."""
    from vlmlake.ingest.decoding import Decoding
    from vlmlake.ingest.job import Job
    from vlmlake.ingest.model_source import ModelSource

    started = time.monotonic()
    lake = folder / "lake"
    console.print(f"1. run three tiny models once over {images} drawn scenes, what happens inside them goes to {lake}")
    decoding = Decoding(answer_tokens=ANSWER_TOKENS, samples=SAMPLES)
    plan = read_plan(DEFAULT_PLAN, blank=True)
    for model in checkpoints():
        job = Job(ModelSource(str(model)), (f"shapes:{images}@{seed}",), str(lake), plan=plan, decoding=decoding)
        extract_with_progress(console, job)
    console.print("2. every analysis of the study from the store, without the models")
    found = analyze_with_progress(console, str(lake), ["all"])
    found.raise_refusals()
    analyze_with_progress(console, str(lake), ["attention"], rule="exact").raise_refusals()
    computed = [step for step in found.steps if step.state == "done"]
    seconds = sum(step.seconds for step in computed)
    statistics = f"{found.table.height:,} statistics in the table `results`"
    console.print(f"{len(computed)} analyses computed in {seconds:.0f} s, {statistics}")
    console.print("3. neurons taken away and patches covered: the models run again where that can change an answer")
    changed = _intervene(console, str(lake))
    console.print("4. what the study published for the models that these three stand in for, and what they do")
    print_study(console, study(open_lake(str(lake))))
    console.print("\n5. what the answers lose without neurons and under gray patches, beside what chance takes away")
    print_causal(console, changed, open_lake(str(lake)).table("interventions"))
    console.print(f"\nAll of it took {time.monotonic() - started:.0f} s. The lake lies in {lake}. Try next:")
    for command in next_commands(lake):
        console.print(f"  {command}", soft_wrap=True)


def _intervene(console: Console, url: str) -> pl.DataFrame:
    """Ablation and masking of each run, on the images that ranked no neurons; results of `causal`."""
    from vlmlake.console.interventions import intervene_with_progress
    from vlmlake.ingest.interventions.requests.ablation import Ablation
    from vlmlake.ingest.interventions.requests.masking import Masking

    lake, started = open_lake(url), time.monotonic()
    examples = lake.table("examples")
    kept = lake.table("metrics").filter(metric="kept_for_ablation", value=1.0).join(examples, on=["run", "example"])
    asked = examples.filter(split=DISTURBED).join(kept, on=["run", "image_sha256"], how="semi")
    for run in lake.runs:
        for request in (Ablation(top=(5, 0.5)), Masking()):
            ids = asked.filter(run=run)["example"].to_list()
            intervene_with_progress(console, url, run, request, examples=ids)
    found = analyze_with_progress(console, url, ["causal"])
    found.raise_refusals()
    console.print(f"all of that in {time.monotonic() - started:.0f} s")
    return found.table


def checkpoints() -> list[Path]:
    """The tiny models that the package carries, one per family."""
    return [Path(str(files("vlmlake.ingest") / "checkpoints" / name)) for name in TINY_MODELS]


def next_commands(lake: Path) -> Sequence[str]:
    """Commands for a reader who wants to go on."""
    vlmlake = "vlmlake" if shutil.which("vlmlake") else sys.argv[0]
    query = f"{vlmlake} query {{}} {lake} --run {TINY_MODELS[0]} --param limit=5".format
    return (
        f"{vlmlake} info {lake}",
        query("probe-disagreements"),
        f"{query('neighbours')} --stats",
        f"{query('attended-tokens')} --param layer=block_2 --stats",
        f'{vlmlake} sql {lake} "select layer, avg(list_sum(weights)) as image_share from attention_image '  # noqa: S608 - a command to be typed
        "where position = 'prompt_last' group by layer order by layer_number(layer)\"",
        f"{vlmlake} analyze {lake} probes --where \"split = 'adversarial'\"",
        f"{vlmlake} ablate {lake} --run {TINY_MODELS[0]} --ranking attribution --top 1,5,20 --plan",
        f"{vlmlake} verify {lake} --replay 5",
    )
