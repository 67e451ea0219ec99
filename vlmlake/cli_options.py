"""Options that several verbs share, and the job that they make."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmlake.errors import VlmlakeError, without_credentials
from vlmlake.store_schema.workers import Worker

if TYPE_CHECKING:
    from vlmlake.ingest.job import Job
    from vlmlake.ingest.model_source import ModelSource

DATA, MODEL, CAPTURE, ANSWERS = "Data", "Model", "What is kept", "Answers"

SECRET_WORDS = ("key", "keys", "secret", "token", "password", "passwd", "credential", "credentials", "sas", "signature")
SECRET_NAMES = ("accesskey", "connectionstring", "connection_string", "access_key", "passphrase")
"""A storage option is a credential if a word of its name is one of the first, or the name is one of the second."""

NO_SECRETS = (("token", "anon"), ("token", "cloud"), ("token", "google_default"))
"""Options of such a name whose value says how to log in, not with what."""

LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID")
"""Variables in which torchrun and SLURM say which of its machine's processes this one is."""

Url = Annotated[str, typer.Argument(metavar="URL", help="The lake: a folder or any URL that fsspec knows.")]
OneRun = Annotated[str | None, typer.Option("--run", help="One run only, by name or model.")]
StorageOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--storage-option",
        metavar="NAME=VALUE",
        help="For the file system of the lake, as in endpoint_url=http://localhost:9000.",
    ),
]
WorkerOf = Annotated[
    str | None,
    typer.Option(
        "--worker",
        metavar="I/N",
        help="Take the I-th of N shares of the batches, from 0; by default as torchrun or SLURM says.",
    ),
]

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

ModelNow = Annotated[
    str | None,
    typer.Option("--model", help="Where the run's model is now, if not where it was.", rich_help_panel=MODEL),
]
DatasetsNow = Annotated[
    list[str] | None,
    typer.Option("--dataset", help="KIND:PLACE of the run's data now, if not where they were.", rich_help_panel=DATA),
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
Where = Annotated[
    str | None,
    typer.Option(metavar="SQL", help="Examples of which this is true, over `examples` and `answers`."),
]
Rule = Annotated[
    str, typer.Option(help="Label rule: pope_official, exact, yes_xor_no or vqa_soft.", rich_help_panel=ANSWERS)
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
    worker: Worker | None = None,
    storage_options: Mapping[str, Any] | None = None,
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
        worker=worker or Worker(),
        storage_options=storage_options,
    )


def pixels(text: str | None) -> tuple[int, int] | None:
    """Width and height out of 640x480."""
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise VlmlakeError(f"image size is {text!r}, expected width and height in pixels like 640x480")
    return int(width), int(height)


def storage_options(given: list[str] | None) -> dict[str, Any]:
    """Names and values out of NAME=VALUE; a value that is JSON is taken as that, else as text.

    Raises VlmlakeError for anything else, and for credentials: a command line is seen by others.
    """
    options: dict[str, Any] = {}
    for text in given or []:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise VlmlakeError("a --storage-option is not of the form NAME=VALUE, as in endpoint_url=http://host:9000")
        options[name] = _json_or_text(value)
    secret = [name for name, value in _leaves(options) if _is_secret(name, value)]
    if secret:
        raise VlmlakeError(
            f"--storage-option {', '.join(secret)}: credentials come from the environment alone (AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY or a profile, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_KEY ...)"
        )
    return options


def worker_of(text: str | None, environment: Mapping[str, str]) -> Worker:
    """The worker of --worker, else the launcher's. Raises VlmlakeError for what is none."""
    return Worker.of_environment(environment) if text is None else Worker.parse(text)


def device_of(device: str, environment: Mapping[str, str]) -> str:
    """The device; of several processes on one machine each gets its own accelerator where just `cuda` is asked for.

    Raises VlmlakeError where the launcher's variable is no number.
    """
    named = next((name for name in LOCAL_RANKS if name in environment), None)
    if device != "cuda" or named is None:
        return device
    if not environment[named].isdecimal():
        raise VlmlakeError(f"{named} of the environment is {environment[named]!r}, expected a number: use --device")
    return f"cuda:{environment[named]}"


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """Every name at any depth with its value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, below in pairs:
        yield str(name), below
        yield from _leaves(below)


def _is_secret(name: str, value: Any) -> bool:
    plain = name.lower().replace("-", "_")
    if isinstance(value, str) and "@" in value and without_credentials(value) != value:
        return True
    named = plain in SECRET_NAMES or any(word in SECRET_WORDS for word in plain.split("_"))
    return named and (plain, value) not in NO_SECRETS


def named_columns(given: list[str] | None) -> dict[str, str]:
    """What a table calls an example's fields, out of FIELD=NAME."""
    columns = {}
    for text in given or []:
        field, separator, name = text.partition("=")
        if not separator or not field or not name:
            raise VlmlakeError(f"--column {text}: expected FIELD=NAME, for instance question=prompt")
        columns[field] = name
    return columns
