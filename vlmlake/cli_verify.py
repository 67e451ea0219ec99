"""The verb that looks at everything: each byte, each value, and some examples through the model again."""

from __future__ import annotations

from typing import Annotated

import typer

from vlmlake import cli_options as options


def verify(
    url: options.Url,
    run: Annotated[str | None, typer.Option(help="One run only, by name or model.")] = None,
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="Take batches with problems back, for `extract` to compute again.")
    ] = False,
    replay: Annotated[
        int, typer.Option(metavar="N", min=0, help="Compute N examples of each run again, and compare.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of those examples.")] = 0,
    model: options.ModelNow = None,
    device: options.Device = "cpu",
    trust_remote_code: options.TrustRemoteCode = False,
    dataset: options.DatasetsNow = None,
    images: options.Images = None,
    column: options.Columns = None,
    storage_option: options.StorageOptions = None,
) -> None:
    """Check every byte of a lake against its checksums, and every value against what it must be; exit code 1 if not.

    Example: vlmlake verify ./lake --replay 5
    """
    from vlmlake.console import terminal
    from vlmlake.console.verification import print_verdicts, print_withdrawn, replay_runs
    from vlmlake.store_schema.lake import open_lake
    from vlmlake.store_schema.verify import verify as check
    from vlmlake.store_schema.verify import withdraw_broken

    console, lake = terminal(), open_lake(url, options.storage_options(storage_option))
    if withdraw:
        lake.storage.require_writable()
    verdicts = check(lake, run)
    sound = print_verdicts(console, verdicts)
    if withdraw:
        print_withdrawn(console, withdraw_broken(lake.storage, verdicts))
    if replay:
        from vlmlake.ingest.replay_job import Sources

        sources = Sources(model, tuple(dataset or ()), images, options.named_columns(column), device, trust_remote_code)
        sound = replay_runs(console, lake, verdicts, replay, seed, sources) and sound
    raise typer.Exit(0 if sound else 1)
