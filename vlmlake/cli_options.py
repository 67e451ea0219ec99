"""Options that several verbs share, and the job that they make."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmlake.errors import VlmlakeError

if TYPE_CHECKING:
    from vlmlake.ingest.job import Job
    from vlmlake.ingest.model_source import ModelSource

DATA, MODEL, CAPTURE, ANSWERS = "Data", "Model", "What is kept", "Answers"

Url = Annotated[str, typer.Argument(metavar="URL", help="The lake: a folder or any URL that fsspec knows.")]

StorageOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--storage-option",
        metavar="NAME=VALUE",
        help="For the file system of the lake, as in endpoint_url=http://localhost:9000.",
    ),
]
CREDENTIALS = (
    "key",
    "secret",
    "token",
    "password",
    "passwd",
    "username",
    "account_key",
    "sas_token",
    "credential",
    "credentials",
    "connection_string",
    "client_secret",
)
"""Names of storage options that no command line should hold, where other users of the machine and the shell's history
see them.
"""

Model = Annotated[str, typer.Option(help="Local folder of save_pretrained, or a hub id.", rich_help_panel=MODEL)]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of the model on the hub.", rich_help_panel=MODEL)
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the checkpoint.", rich_help_panel=MODEL)
]
ModelDtype = Annotated[
    str,
    typer.Option(help="Load the weights as auto (as saved), float32, bfloat16 or float16.", rich_help_panel=MODEL),
]
Device = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1.", rich_help_panel=MODEL)]
DeviceMap = Annotated[
    str | None,
    typer.Option(help="auto spreads the model over all accelerators (package accelerate).", rich_help_panel=MODEL),
]
Attention = Annotated[
    str,
    typer.Option("--attn", help="Attention kernel: sdpa, flash_attention_2 or eager.", rich_help_panel=MODEL),
]

Datasets = Annotated[
    list[str],
    typer.Option(
        "--dataset",
        help="KIND:PLACE, as often as wanted: pope:FILE-OR-FOLDER, table:FILE-OR-URL, hub:NAME[:CONFIG][@SPLIT], "
        "shapes:IMAGES[@SEED].",
        rich_help_panel=DATA,
    ),
]
Images = Annotated[
    str | None, typer.Option(help="Folder of the images, if not beside the questions.", rich_help_panel=DATA)
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="FIELD=NAME",
        help="What a table calls question, image, gold, id or split.",
        rich_help_panel=DATA,
    ),
]
SkipBad = Annotated[
    bool,
    typer.Option(
        "--skip-bad", help="Leave out examples with a broken image; table `skipped` lists them.", rich_help_panel=DATA
    ),
]
Plan = Annotated[str, typer.Option(help="full, suffix, readout, or a TOML file of your own.", rich_help_panel=CAPTURE)]
StoredDtype = Annotated[
    str | None,
    typer.Option(
        "--dtype", help="How activations are stored: float16 (default), bfloat16 or float32.", rich_help_panel=CAPTURE
    ),
]
Blank = Annotated[
    bool,
    typer.Option("--blank", help="Run gray images too: readout states and logits only.", rich_help_panel=CAPTURE),
]
SharePrefix = Annotated[
    bool,
    typer.Option(
        "--share-prefix/--no-share-prefix",
        help="Compute what lies before the question once per image, where the model allows it.",
        rich_help_panel=CAPTURE,
    ),
]
BatchSize = Annotated[int, typer.Option(help="Questions computed and committed together.", rich_help_panel=CAPTURE)]
AnswerTokens = Annotated[int, typer.Option(help="Longest answer, in tokens.", rich_help_panel=ANSWERS)]
Samples = Annotated[int, typer.Option(help="Answers drawn besides the greedy one.", rich_help_panel=ANSWERS)]
Temperature = Annotated[float, typer.Option(help="Of the draws.", rich_help_panel=ANSWERS)]
TopP = Annotated[float, typer.Option("--top-p", help="Of the draws.", rich_help_panel=ANSWERS)]
Seed = Annotated[int, typer.Option(help="Of the draws; with the image and the question.", rich_help_panel=ANSWERS)]


def job_of(
    model: ModelSource,
    dataset: list[str],
    lake: str,
    images: str | None,
    columns: list[str] | None,
    plan: str,
    dtype: str | None,
    blank: bool,
    batch_size: int,
    share_prefix: bool,
    answer_tokens: int,
    samples: int,
    temperature: float = 0.7,
    top_p: float = 0.9,
    seed: int = 0,
    skip_bad: bool = False,
) -> Job:
    """The job that the options describe. Raises VlmlakeError for one that is out of range."""
    from vlmlake.ingest.decoding import Decoding
    from vlmlake.ingest.job import Job
    from vlmlake.store_schema.capture_plan import read_plan

    return Job(
        model=model,
        datasets=tuple(dataset),
        lake=lake,
        images=images,
        columns=named_columns(columns),
        plan=read_plan(plan, dtype, blank),
        decoding=Decoding(answer_tokens, samples, temperature, top_p, seed),
        batch_size=batch_size,
        share_prefix=share_prefix,
        skip_bad=skip_bad,
    )


def storage_options(given: list[str] | None) -> dict[str, Any]:
    """Options for fsspec out of NAME=VALUE; a value is JSON where it parses, else text.

    Raises VlmlakeError for a credential, or what is no NAME=VALUE.
    """
    options: dict[str, Any] = {}
    for text in given or []:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise VlmlakeError(
                f"--storage-option {name}: expected NAME=VALUE, as in endpoint_url=http://localhost:9000"
            )
        if name.lower() in CREDENTIALS:
            raise VlmlakeError(f"--storage-option {name}: credentials come from the environment")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def pixels(text: str | None) -> tuple[int, int] | None:
    """Width and height out of 640x480."""
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise VlmlakeError(f"image size is {text!r}, expected width and height in pixels like 640x480")
    return int(width), int(height)


def named_columns(given: list[str] | None) -> dict[str, str]:
    """What a table calls an example's fields, out of FIELD=NAME."""
    columns = {}
    for text in given or []:
        field, separator, name = text.partition("=")
        if not separator or not field or not name:
            raise VlmlakeError(f"--column {text}: expected FIELD=NAME, for instance question=prompt")
        columns[field] = name
    return columns
