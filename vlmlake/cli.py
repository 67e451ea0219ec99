"""The command line: one verb per job, each a thin face of a Python function. Heavy rooms are imported by their verb."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from vlmlake.errors import VlmlakeError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="An activation lake for vision-language models: run the model once, answer later questions from the store.",
)

Url = Annotated[str, typer.Argument(metavar="URL", help="The lake: a folder or any URL that fsspec knows.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vlmlake {version('vlmlake')}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@app.command()
def extract(
    model: Annotated[str, typer.Option(help="Local folder of save_pretrained, or a hub id.")],
    dataset: Annotated[str, typer.Option(help="KIND:PATH, for instance pope:coco/coco_pope_random.json.")],
    lake: Annotated[str, typer.Option(help="Where the lake lies or shall lie.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the images, if not beside the questions.")] = None,
    dtype: Annotated[str, typer.Option(help="How activations are stored: float16 or float32.")] = "float16",
    batch_size: Annotated[int, typer.Option(help="Examples computed and committed together.")] = 32,
    answer_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 16,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    """Run a model over a dataset and keep what happened inside it; run it again to finish what was cut off.

    Example: vlmlake extract --model llava-hf/llava-1.5-7b-hf --dataset pope:coco --lake ./lake --device cuda
    """
    from vlmlake.console import extract_with_progress, terminal
    from vlmlake.ingest.job import Job

    job = Job(
        model=model,
        dataset=dataset,
        lake=lake,
        images=images,
        dtype=dtype,
        batch_size=batch_size,
        answer_tokens=answer_tokens,
        device=device,
    )
    try:
        extract_with_progress(terminal(), job)
    except KeyboardInterrupt:
        print("vlmlake: interrupted; committed batches are kept, run the same command to go on", file=sys.stderr)
        raise typer.Exit(130) from None


@app.command()
def info(url: Url) -> None:
    """Show the runs of a lake: what they hold, how large it is, how far they are.

    Example: vlmlake info ./lake
    """
    from vlmlake.console import print_info, terminal
    from vlmlake.store_schema.lake import open_lake

    print_info(terminal(), open_lake(url))


@app.command()
def analyze(
    url: Url,
    names: Annotated[list[str] | None, typer.Argument(help="Analyses to run; all by default.")] = None,
    run: Annotated[str | None, typer.Option(help="One run only, by name or model.")] = None,
    rule: Annotated[str, typer.Option(help="Label rule: pope_official, exact or yes_xor_no.")] = "pope_official",
    seed: Annotated[int, typer.Option(min=0, help="Seed of folds and resamples.")] = 0,
) -> None:
    """Compute accuracy, probes and spatial entropy from the store alone; results go into the lake.

    Example: vlmlake analyze ./lake probes
    """
    from vlmlake.analysis import ANALYSES
    from vlmlake.analysis.analyze import analyze as run_analyses
    from vlmlake.console import print_results, terminal

    found = run_analyses(url, tuple(names or ANALYSES), run=run, rule=rule, seed=seed)
    print_results(terminal(), found.table)
    found.raise_refusals()


@app.command()
def sql(url: Url, query: Annotated[str, typer.Argument(help="One SQL statement.")]) -> None:
    """Ask a lake in SQL. Tables: runs, examples, answers, results.

    Example: vlmlake sql ./lake "select split, count(*) from examples group by split"
    """
    from vlmlake.console import print_table, terminal
    from vlmlake.queries import sql as ask

    print_table(terminal(), ask(url, query))


@app.command()
def shapes(
    folder: Annotated[Path, typer.Argument(help="Folder to write.")],
    images: Annotated[int, typer.Option(min=1, help="How many scenes; each gets twelve questions.")] = 100,
    seed: Annotated[int, typer.Option(help="The same seed writes the same bytes.")] = 0,
) -> None:
    """Draw a small benchmark in POPE's form: scenes of coloured shapes with yes/no questions.

    Example: vlmlake shapes ./scenes --images 100, then vlmlake extract --dataset pope:./scenes ...
    """
    from vlmlake.ingest.datasets.shapes import write_benchmark

    for path in write_benchmark(folder, images, seed):
        typer.echo(path)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Folder for the scenes and the lake.")] = Path("demo-lake"),
    images: Annotated[int, typer.Option(min=20, help="How many scenes; each gets twelve questions.")] = 120,
) -> None:
    """Do all of it in one go on drawn scenes and the tiny model that the package carries.

    Example: vlmlake demo
    """
    from vlmlake.console import terminal
    from vlmlake.demo import run_demo

    run_demo(terminal(), folder, images)


def main() -> None:
    """Entry point: a VlmlakeError is one line on standard error and exit code 2."""
    try:
        app()
    except VlmlakeError as error:
        print(f"vlmlake: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"vlmlake: {error.filename or 'input or output'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "transformers", "PIL", "safetensors", "tokenizers"):
            raise
        print(
            f"vlmlake: {error.name} is missing: this verb needs the extra `ingest`, as in pip install '.[ingest]'",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
