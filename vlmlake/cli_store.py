"""Verbs on what a lake's files are, rather than on what they say: how far, finished, left over, copied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vlmlake import cli_options as options
from vlmlake.errors import VlmlakeError

if TYPE_CHECKING:
    from vlmlake.store_schema.lake import Lake
    from vlmlake.store_schema.run import Run


def status(url: options.Url, run: options.OneRun = None, storage_option: options.StorageOptions = None) -> None:
    """Show how far runs are, batch by batch, and what their workers last said. Decides nothing, changes nothing.

    Example: vlmlake status ./lake
    """
    from vlmlake.console import terminal
    from vlmlake.console.store import print_status
    from vlmlake.store_schema.lake import open_lake
    from vlmlake.store_schema.status import run_status

    lake = open_lake(url, options.storage_options(storage_option))
    for one in _runs(lake, run):
        print_status(terminal(), run_status(lake.storage, one.record))


def finish(url: options.Url, run: options.OneRun = None, storage_option: options.StorageOptions = None) -> None:
    """Put all commits of a complete run into one file, for readers far away; `extract` does so at its end.

    Example: vlmlake finish ./lake
    """
    from vlmlake.store_schema.finish import finish as finish_run
    from vlmlake.store_schema.finish import is_finished
    from vlmlake.store_schema.lake import open_lake

    lake = open_lake(url, options.storage_options(storage_option))
    lake.storage.require_writable()
    refusals = []
    for one in _runs(lake, run):
        before = is_finished(lake.storage, one.name)
        try:
            finish_run(lake.storage, one.record)
        except VlmlakeError as error:
            refusals.append(str(error))
            continue
        done = "was finished before" if before else "finished"
        typer.echo(f"{one.name}: {done}, {one.record.extents.batches} batches")
    if refusals:
        raise VlmlakeError("; ".join(refusals))


def gc(
    url: options.Url,
    run: options.OneRun = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove them; without it they are only listed.")] = False,
    older_than: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="By the storage's clock; what is younger stays.")
    ] = 3600.0,
    storage_option: options.StorageOptions = None,
) -> None:
    """List what interrupted writers left in a lake, and remove it. Nothing that is visible is touched.

    Example: vlmlake gc ./lake --delete
    """
    from vlmlake.console import terminal
    from vlmlake.console.store import print_leftovers
    from vlmlake.store_schema.lake import open_lake
    from vlmlake.store_schema.leftovers import find_leftovers, remove_leftovers

    lake = open_lake(url, options.storage_options(storage_option))
    found = find_leftovers(lake.storage, _folder(lake, run), older_than)
    print_leftovers(terminal(), found, remove_leftovers(lake.storage, found) if delete else None)


def copy(
    url: options.Url,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The lake to copy to; made where there is none.")],
    run: options.OneRun = None,
    array: Annotated[list[str] | None, typer.Option(help="Arrays to copy; token tables come along. All.")] = None,
    layer: Annotated[list[str] | None, typer.Option(help="Layers to copy, like block_3. All.")] = None,
    example: Annotated[list[str] | None, typer.Option(metavar="ID", help="Examples to copy. All.")] = None,
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="Examples by a condition over the tables examples and answers.")
    ] = None,
    storage_option: options.StorageOptions = None,
    target_option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="For the target's file system, where the two differ."),
    ] = None,
) -> None:
    """Copy runs, or some of their layers, examples and arrays, to another lake; again, to go on where it was cut off.

    Example: vlmlake copy ./lake ./small --layer block_2 --array readout_states --where "split = 'adversarial'"
    """
    from vlmlake.console import terminal
    from vlmlake.console.store import print_copied
    from vlmlake.queries import examples_where
    from vlmlake.store_schema.copying import copy_run
    from vlmlake.store_schema.lake import open_lake
    from vlmlake.store_schema.selection import Selection
    from vlmlake.store_schema.storage import Storage

    if example and where is not None:
        raise VlmlakeError("--example and --where both choose examples: expected one of them")
    settings = options.storage_options(storage_option)
    target_settings = options.storage_options(target_option) if target_option else settings
    runs = _runs(open_lake(url, settings), run)
    chosen = {} if where is None else examples_where(url, [one.name for one in runs], where, settings)
    for one in runs:
        ids = chosen.get(one.name, tuple(example) if example else None)
        selection = Selection(tuple(array) if array else None, tuple(layer) if layer else None, ids)
        copied = copy_run(one, target, selection, target_settings)
        print_copied(terminal(), copied, Storage.at(target, target_settings).url)


def _runs(lake: Lake, name: str | None) -> list[Run]:
    """The named run, or all. Raises VlmlakeError if there are none."""
    found = [lake.run(one) for one in ((name,) if name else lake.runs)]
    if not found:
        raise VlmlakeError(f"the lake at {lake.url} has no runs; `vlmlake extract` writes one")
    return found


def _folder(lake: Lake, name: str | None) -> str | None:
    """The folder of a run; also of one whose creation was cut off."""
    from vlmlake.store_schema import paths

    if name is None or name in lake.storage.names(paths.RUNS):
        return name
    return lake.run(name).name
