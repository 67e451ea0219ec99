"""The command line: one verb per job, each a thin face of a Python function. Heavy rooms are imported by their verb."""

from __future__ import annotations

import os
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from vlmlake import cli_options as options
from vlmlake import cli_store
from vlmlake.cli_analysis import analyze, study
from vlmlake.cli_interventions import ablate, mask, patch
from vlmlake.cli_verify import verify
from vlmlake.console.printable import printable
from vlmlake.errors import VlmlakeError, without_credentials
from vlmlake.store_schema.retries import client_errors, described

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="An activation lake for vision-language models: run the model once, answer later questions from the store.",
)


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
    model: options.Model,
    dataset: options.Datasets,
    lake: Annotated[str, typer.Option(help="Where the lake lies or shall lie.")],
    images: options.Images = None,
    column: options.Columns = None,
    skip_bad: options.SkipBad = False,
    revision: options.Revision = None,
    model_dtype: options.ModelDtype = "auto",
    device: options.Device = "cpu",
    device_map: options.DeviceMap = None,
    attention: options.Attention = "sdpa",
    trust_remote_code: options.TrustRemoteCode = False,
    plan: options.Plan = "suffix",
    dtype: options.StoredDtype = None,
    blank: options.Blank = False,
    share_prefix: options.SharePrefix = True,
    batch_size: options.BatchSize = 32,
    answer_tokens: options.AnswerTokens = 16,
    samples: options.Samples = 0,
    temperature: options.Temperature = 0.7,
    top_p: options.TopP = 0.9,
    seed: options.Seed = 0,
    worker: options.WorkerOf = None,
    storage_option: options.StorageOptions = None,
) -> None:
    """Run a model over a dataset and keep what happened inside it; run it again to finish what was cut off.

    Example: vlmlake extract --model llava-hf/llava-1.5-7b-hf --dataset pope:coco --lake ./lake --device cuda
    """
    from vlmlake.console import terminal
    from vlmlake.console.extraction import extract_with_progress
    from vlmlake.ingest.model_source import ModelSource

    device = options.device_of(device, os.environ)
    job = options.job_of(
        model=ModelSource(model, revision, model_dtype, device, device_map, attention, trust_remote_code),
        dataset=dataset,
        lake=lake,
        images=images,
        columns=column,
        plan=plan,
        dtype=dtype,
        blank=blank,
        batch_size=batch_size,
        share_prefix=share_prefix,
        answer_tokens=answer_tokens,
        samples=samples,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        skip_bad=skip_bad,
        worker=options.worker_of(worker, os.environ),
        storage_options=options.storage_options(storage_option),
    )
    try:
        extract_with_progress(terminal(), job)
    except KeyboardInterrupt:
        print("vlmlake: interrupted; committed batches are kept, run the same command to go on", file=sys.stderr)
        raise typer.Exit(130) from None


@app.command()
def plan(
    model: options.Model,
    dataset: options.Datasets,
    lake: Annotated[str, typer.Option(help="Where the lake lies or shall lie.")] = "lake",
    images: options.Images = None,
    column: options.Columns = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            metavar="WxH",
            help="Pixels of every image, where the images are not here and their size counts.",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    plan: options.Plan = "suffix",
    dtype: options.StoredDtype = None,
    blank: options.Blank = False,
    share_prefix: options.SharePrefix = True,
    batch_size: options.BatchSize = 32,
    answer_tokens: options.AnswerTokens = 16,
    storage_option: options.StorageOptions = None,
) -> None:
    """Say what `extract` would write, before anything runs: arrays, bytes, chunks, objects. Needs no weights.

    Example: vlmlake plan --model llava-hf/llava-1.5-7b-hf --dataset pope:coco/coco_pope_random.json
    """
    from vlmlake.console import terminal
    from vlmlake.console.extraction import print_forecast
    from vlmlake.ingest.forecast import forecast
    from vlmlake.ingest.model_source import ModelSource

    job = options.job_of(
        model=ModelSource(model, revision, trust_remote_code=trust_remote_code),
        dataset=dataset,
        lake=lake,
        images=images,
        columns=column,
        plan=plan,
        dtype=dtype,
        blank=blank,
        batch_size=batch_size,
        share_prefix=share_prefix,
        answer_tokens=answer_tokens,
        samples=0,
        storage_options=options.storage_options(storage_option),
    )
    print_forecast(terminal(), forecast(job, options.pixels(image_size)))


@app.command()
def info(url: options.Url, storage_option: options.StorageOptions = None) -> None:
    """Show the runs of a lake: what they hold, how large it is, how far they are.

    Example: vlmlake info ./lake
    """
    from vlmlake.console import print_info, terminal
    from vlmlake.store_schema.lake import open_lake

    print_info(terminal(), open_lake(url, options.storage_options(storage_option)))


for _verb in (
    cli_store.status,
    cli_store.finish,
    cli_store.gc,
    cli_store.copy,
    verify,
    analyze,
    study,
    ablate,
    mask,
    patch,
):
    app.command()(_verb)


@app.command()
def sql(
    url: options.Url,
    query: Annotated[str, typer.Argument(help="One SQL statement.")],
    allow_files: Annotated[
        bool,
        typer.Option("--allow-files", help="Let the statement read and write files of this machine, as DuckDB can."),
    ] = False,
    storage_option: options.StorageOptions = None,
) -> None:
    """Ask a lake in SQL. Tables: runs, examples, answers, samples, skipped, results, metrics, labels, rankings,
    interventions, outcomes.

    Example: vlmlake sql ./lake "select split, count(*) from examples group by split"
    """
    from vlmlake.console import print_table, terminal
    from vlmlake.queries import sql as ask

    print_table(terminal(), ask(url, query, options.storage_options(storage_option), allow_files=allow_files))


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
    """Do all of it in one go on drawn scenes and the three tiny models that the package carries.

    Example: vlmlake demo
    """
    from vlmlake.console import terminal
    from vlmlake.demo import run_demo

    run_demo(terminal(), folder, images)


def main() -> None:
    """Entry point: an error that a user can put right is one line on standard error and exit code 2."""
    warnings.showwarning = _warn  # type: ignore[assignment]
    try:
        app()
    except VlmlakeError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename or 'input or output'}: {error.strerror or error}")
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "transformers", "PIL", "safetensors", "tokenizers"):
            raise
        _refuse(f"{error.name} is missing: this verb needs the extra `ingest`, as in pip install '.[ingest]'")
    except client_errors() as error:
        _refuse(described(error))


def _warn(message: Warning | str, *_: object) -> None:
    print(f"vlmlake: {printable(str(message))}", file=sys.stderr)


def _refuse(text: str) -> NoReturn:
    """One line, with nothing in it that drives a terminal or lets somebody in."""
    print(f"vlmlake: {printable(without_credentials(' '.join(text.split())))}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
